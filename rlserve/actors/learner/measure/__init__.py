"""What is measured: held-out evaluations, the best checkpoint by them, and the groups received.

* ``measuring``   waits for workers that serve the version, has the tasks done, records the result
* ``evaluation``  the leases of an evaluation, and what its groups measure
* ``estimators``  pass@k, maj@k, intervals: pure functions
* ``best``        the best evaluation, its checkpoint, and when patience ends
* ``arrivals``    statistics of the groups received between two steps

To add a measure: a line in ``evaluation.measure``, its name in ``EvaluateConfig.measures``.
"""
