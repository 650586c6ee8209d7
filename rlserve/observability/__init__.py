"""Logs, metrics, events and the report of a run.

* ``logs``       one log format for every actor
* ``printable``  text from other processes, made safe for logs and terminals
* ``events``     events.jsonl: phases, deaths, recoveries, appended by several processes
* ``warner``     warnings for users, each cause at its 1st, 10th, 100th occurrence
* ``metrics``    metrics.jsonl, and the declaration of every metric
* ``summary``    summary.json, written atomically
* ``outcome``    the result over all lives of a resumed run, as data and as sentences
* ``plots``      curves from metrics.jsonl
* ``report``     report.html: curves, samples, events on one page

To add a metric: one line in ``metrics.METRICS``, or in ``PREFIXES`` for a family of names, and the code that writes it:
``learner/step_metrics`` for a step, ``batching/summary`` for a batch, ``learner/measure/evaluation`` for an evaluation.
``tests/e2e/test_promised_metrics.py`` needs a run that writes it. An algorithm's own metrics need only a row in
``docs/algorithms.md``. To add a plot: a ``Panel`` in ``plots.PANELS``.
"""
