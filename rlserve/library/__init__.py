"""rlserve as a library: what ``import rlserve`` offers, and what the command line stands on. See docs/python.md.

* ``train``     ``rlserve.train``: keyword arguments to a run, run to its end
* ``run``       ``rlserve.Run``: a run on disk: its metrics, checkpoint, measurements, samples
* ``start``     starts a configuration, or a finished run again, with the console
* ``measure``   a run of zero steps, for measurements and samples

* ``keywords``  keyword arguments as values of a configuration
* ``machine``   values that fit this machine and the model, where the caller leaves them open
* ``inputs``    objects of a script (functions, classes, rows) as references and files
* ``source``    the source of a function or class, with what it needs of its script

To add a keyword that is no key of the configuration: an argument of ``train``, and a line in docs/python.md.
"""
