"""The actors of a run, one process each, and what they have in common.

* ``hub``          registers live actors and environments; and the clients by which the others find each other
* ``environment``  serves environment plug-ins: tasks and multi-turn episodes
* ``verifier``     serves verifier plug-ins: verdicts, in processes that may be killed
* ``teacher``      serves log-probabilities of a stronger model
* ``rollout``      samples with an inference engine and sends groups to the learner
* ``learner``      trains on groups and publishes weights
* ``process``, ``stop``, ``stop_deadline``  the life of every actor process: register, signals, drain, exit code
* ``checkpoints``, ``model_path``  finds and checks a run's checkpoints, and the start model
* ``chat``, ``prompts``, ``tokenizer``, ``model_tokens``, ``end_tokens``, ``token_text``  messages, texts and tokens

To add an actor: a folder with ``main`` (its process, by ``process.run_actor``) and ``service`` (its gRPC servicer), a
kind in ``records.ActorKind``, its case in ``rlserve.cli.serve``, and its processes in ``rlserve.launch.plan``.
"""
