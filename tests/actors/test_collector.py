"""What lives as long as the process is left to itself by the garbage collector."""

import gc

from rlserve.actors import collector


def test_what_is_there_is_visited_no_more_and_later_cycles_are_still_freed() -> None:
    before = gc.get_threshold()
    try:
        collector.spare()
        assert gc.get_freeze_count() > 10_000 > len(gc.get_objects())
        assert gc.get_threshold() == (collector.ALLOCATIONS, *before[1:])
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
