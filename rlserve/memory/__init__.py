"""What a run's processes hold in memory, predicted from the configuration alone. Imports no torch.

* ``shape``     the facts of a model's ``config.json``
* ``formulas``  bytes of a learner rank, an engine, a teacher; pure
* ``machine``   memory of this machine, or of one that is named

``rlserve.launch.memory_plan`` puts them together. A number that is missing here: its term in ``formulas``, and a row in
docs/memory.md.
"""
