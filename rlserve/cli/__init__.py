"""The command ``rlserve``: a module per subcommand with ``add_arguments(parser)`` and ``run(arguments) -> exit code``.

* ``main``      parses, then imports the chosen command's module
* ``commands``  Command: name, module and help of a subcommand

* ``runs``      commands about a run: run, plan, serve, join, render, status, set, scale, rollout, report
* ``models``    commands about a model: eval, generate, export, chat
* ``env``       the actions of ``rlserve env``
* ``pairs``     preference pairs from files of samples
* ``pretrain``, ``sft``  the stages that make a start checkpoint
* ``verify``    a verifier's verdicts on a file of cases
* ``verifier``  lists installed verifiers, writes a new one
* ``data``      fetches well-known data sets, shows what is in any
* ``config``    shipped configurations, and every key with its meaning
* ``bench``     benchmarks
* ``completion``  the script for tab completion
* ``doctor``    what this machine lacks

* ``templates``  what ``env new`` and ``verifier new`` write
* ``stages``    arguments that ``pretrain`` and ``sft`` share
* ``cases``     the file format of ``verify``

To add a command: a module here, in ``runs`` or in ``models``, and its line in ``main.COMMANDS``. A page must show
``rlserve NAME`` and a test must run it; torch and vLLM are imported inside ``run``.
"""
