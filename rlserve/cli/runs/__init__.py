"""Commands about a run, and what they share.

* ``run``       a whole run on this machine
* ``plan``      the memory of each process, and whether it fits
* ``serve``     one actor
* ``join``      one actor on a host without the run's files
* ``render``    manifests of a run for a cluster
* ``openai_server``  ``serve openai``: the OpenAI-compatible endpoint of a model or a run
* ``status``    state of a run and its live actors
* ``set``       changes a setting of a run that goes on
* ``scale``     more or fewer processes of a run that goes on
* ``rollout``   status, pause, resume and samples of rollout workers
* ``report``    rebuilds report.html

* ``hub_address``    finds the hub that a command talks to
* ``run_directory``  checks a run directory given by the user

To add a command: a module here and its line in ``rlserve.cli.main.COMMANDS``.
"""
