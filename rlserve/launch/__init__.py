"""Processes of a run: planned, started, watched, restarted, stopped.

* ``run``             ``run(config, paths)``: a whole run, from the claim of its directory to its report
* ``interrupts``      runs and stops a run in a command, a thread, a notebook
* ``render/``        the plan as manifests for clusters
* ``plan``            a configuration as a list of processes; pure
* ``gpus``            which GPUs each process gets; pure
* ``base``            what a launcher promises
* ``registry``        from ``[launch] type`` to a launcher
* ``local``           the launcher of processes on this machine
* ``ray``             the launcher of processes on a Ray cluster
* ``process``         one child process: session, log, stop and kill
* ``scaling``         more and fewer processes of a pool while a run goes on
* ``supervision``     what all launchers share: restarts, the learner's ranks, the order of a stop
* ``last_words``      the error in the log of a process that ended
* ``ports``           addresses on this machine
* ``directory``       the run directory: lock, ``config.toml``, earlier lives
* ``prepare``         the process that makes the start checkpoint and teachers
* ``preflight``       faults that are found before anything starts
* ``memory``          what each process will hold, and whether it fits

To add a launcher: a module with the class, its name in ``registry.LAUNCHERS``, or from a package of your own
an entry point of ``rlserve.launchers``; ``tests/contract/test_launchers.py`` takes all of the list. See
docs/extending.md.
"""
