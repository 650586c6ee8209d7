"""Trackers: services and files to which a run's curves, configuration, samples and results go.

* ``base``         what a tracker is, and what one run of it takes
* ``registry``     from ``[[trackers]]`` to trackers, and what keeps them from starting
* ``feed``         passes the learner's numbers on; no tracker can stop or slow a run
* ``tensorboard``  event files
* ``wandb``        Weights & Biases, online or into a directory
* ``mlflow``       an MLflow server or file store
* ``trackio``      a local trackio database, or a Space

To add a tracker: a module with the class, its name in ``registry.TRACKERS``, or from a package of your own an entry
point of ``rlserve.trackers``; ``tests/contract/test_trackers.py`` takes all of the list. See docs/trackers.md.
"""
