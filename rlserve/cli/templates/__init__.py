"""What ``env new`` and ``verifier new`` write: each module has MODULE, TEST and README.

* ``single_turn``      an environment whose tasks have one turn
* ``multi_turn``       an environment that answers
* ``tools``            an environment with a tool
* ``verifier``         a verifier
* ``judge``            a verifier that asks a model behind a server
* ``reward_function``  a function in a file

``{name}``, ``{module}`` and ``{class_name}`` are filled in by ``cli.env.scaffold``; other braces are kept. To add one:
a module here, its option in ``env/new`` or ``verifier``, and its case in ``tests/cli/test_scaffolds.py``.
"""
