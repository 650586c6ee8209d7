"""Keeps Python's garbage collector from visiting what stays, again and again, while groups come in."""

import gc

ALLOCATIONS = 20_000
"""Objects more than before that start a collection: those of a few hundred groups. By Python's default of 700, a
learner's full collections took a seventh of its processor time."""


def spare() -> None:
    """Call it once what lives as long as the process is there: libraries, model, optimizer."""
    gc.collect()  # first, since a frozen cycle is never freed
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS, *older)
