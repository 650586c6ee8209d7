"""The command ``rlserve``: a module per subcommand with ``add_arguments(parser)`` and ``run(arguments) -> exit code``.

* ``main``      parses, then imports the chosen command's module
* ``commands``  Command: name, module and help of a subcommand

* ``run``       a whole run on this machine
* ``serve``     one actor
* ``status``    state of a run and its live actors
* ``rollout``   status, pause, resume and samples of rollout workers
* ``report``    rebuilds report.html
* ``env``       the actions of ``rlserve env``: env_register, env_unregister, env_list, env_sample, env_check, env_new,
                env_decontaminate
* ``evaluate``  ``rlserve eval``: held-out accuracy of a checkpoint
* ``generate``  graded samples of a model
* ``pairs``     preference pairs from files of samples
* ``pretrain``, ``sft``  the stages that make a start checkpoint
* ``verify``    a verifier's verdicts on a file of cases
* ``verifier``  lists installed verifiers, writes a new one
* ``bench``     benchmarks
* ``doctor``    what this machine lacks

* ``progress``, ``follow``  the console of a run: the display, and what updates it
* ``measure``        a run of zero steps, for ``eval`` and ``generate``
* ``stages``         arguments that ``pretrain`` and ``sft`` share
* ``cases``          the file format of ``verify``
* ``overlap``        n-gram overlap, for ``env decontaminate``
* ``scaffold``       writes a new package, for ``env new`` and ``verifier new``
* ``hub_address``    finds the hub that a command talks to
* ``run_directory``  checks a run directory given by the user

To add a command: a module here and its line in ``main.COMMANDS`` (or ``env.ACTIONS``).
"""
