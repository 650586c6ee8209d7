"""``rlserve bench learn``: every method on the same start, task and sample budget.

* ``compare``  ``measure``: all methods over several seeds, as a table and a plot
* ``methods``  the methods, as changes to the quick start's configuration
* ``runs``     start checkpoints, teachers and files per seed, and one run per method
* ``plots``    accuracy against samples, steps and seconds

To add a method: a ``Method`` in ``methods.METHODS``.
"""

from rlserve.bench.learn.compare import measure

__all__ = ["measure"]
