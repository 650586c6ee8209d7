"""Rollout workers: sample tasks with an inference engine, and send finished groups to the learner.

* ``main``             the process: wires the parts below together
* ``stream``           the stream to the learner: leases in, groups out, until acknowledged
* ``lease_frames``     frames about one lease: a finished group in parts, or the lease returned
* ``worker``           one lease into one group: task, samples, verdicts, teachers' scores
* ``episodes``         multi-turn tasks: each sample is an episode with an environment server
* ``stages``           the present stage of each lease, as progress
* ``stillness``        notices a lease without progress
* ``clients``          asks environment servers for tasks and verifier servers for verdicts
* ``teachers``         asks teacher servers for log-probabilities, and maps them onto the policy's tokens
* ``weight_follower``  keeps the engine on the newest published weights
* ``service``          control of one worker: status, pause, resume, generate
* ``client``           client of that service
* ``endpoint``         an OpenAI-compatible endpoint that follows the run's weights

The engine itself is in ``rlserve.engines``. To add a step to the making of a group: write a coroutine that takes lease,
task and trajectories and returns trajectories, call it in ``worker`` and wire it in ``main``, as ``teachers`` is.
"""
