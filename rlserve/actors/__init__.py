"""The actors of a run, one process each, and what they have in common.

* ``hub``          registers live actors and environments
* ``environment``  serves environment plug-ins: tasks and multi-turn episodes
* ``verifier``     serves verifier plug-ins: verdicts, in processes that may be killed
* ``teacher``      serves log-probabilities of a stronger model
* ``rollout``      samples with an inference engine and sends groups to the learner
* ``learner``      trains on groups and publishes weights

* ``discovery``    how an actor registers at the hub and finds the others
* ``process``, ``stop``, ``stop_deadline``  the life of every actor process: register, signals, drain, exit code
* ``mirror``       a copy of the run at a URL, and the way back
* ``collector``    spares the garbage collector what lives as long as the process
* ``join``         fetches what an actor on another host needs of a run
* ``checkpoints``, ``start_model``  finds and checks a run's checkpoints, and its start model

To add an actor: a folder with ``main`` (its process, by ``process.run_actor``) and ``service`` (its gRPC servicer), a
kind in ``records.ActorKind``, its case in ``rlserve.cli.runs.serve``, and its processes in ``rlserve.launch.plan``.
"""
