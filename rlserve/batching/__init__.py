"""Batching: from groups of trajectories to the tensors of one optimizer step.

* ``filters``    which groups are dropped, and why; a group as an algorithm sees it
* ``collate``    groups to an optimizer batch: assignments, sequences, micro-batches over ranks, denominator
* ``sequences``  one sequence of the batch: a trajectory, its assignment, its values token by token
* ``tensors``    the table of columns, and micro-batches cut from it, padded or packed
* ``packing``    sequences into token budgets and onto ranks
* ``summary``    rewards, lengths and lag of the groups, for the log

A new per-token field takes two lines: the field in ``algorithms.batch.TokenBatch`` (its type marks it as per token, and
whether it asks the model for scores) and its ``Column`` in ``tensors``.
"""
