"""Rollout workers: sample tasks with an inference engine, and send finished groups to the learner.

* ``main``             the process: wires the parts below together
* ``session``          the stream to the learner: leases in, groups out, until acknowledged
* ``lease_frames``     frames about one lease: a finished group in parts, or the lease returned
* ``worker``           one lease into one group: task, samples, verdicts, teachers' scores
* ``stages``           the present stage of each lease, as progress
* ``stillness``        notices a lease without progress
* ``clients``          asks environment servers for tasks and verifier servers for verdicts
* ``teachers``         asks teacher servers for log-probabilities, and maps them onto the policy's tokens
* ``weights``          follows the learner's published weights
* ``service``          control of one worker: status, pause, resume, generate
* ``client``           client of that service
* ``episode``          multi-turn tasks: all episodes of a group at once
* ``dialogue``         the policy's side of one episode
* ``transcript``       token bookkeeping of one episode
* ``continuation``     the tokens between two turns, as the chat template writes them
* ``remote_episodes``  plays a dialogue over a stream to an environment server

The engine itself is in ``rlserve.engines``. To add a step to the making of a group: write a coroutine that takes lease,
task and trajectories and returns trajectories, call it in ``worker`` and wire it in ``main``, as ``teachers`` is.
"""
