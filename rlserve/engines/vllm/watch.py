"""Distinguishes an engine that hangs from one that is slow: a pure state machine, fed once a second.

An engine with pending work *stands still* when it samples no token and its processes neither run nor wait for a
processor: it is frozen, or waits for an event that never arrives. It *hangs busily* when it samples no token for much
longer although it computes, such as in a kernel that never returns while its caller spins. A starved machine, a first
compilation, a long prompt and an update of weights do neither: they use the processor, or wait for it.
"""

import time
from collections.abc import Callable, Hashable

LOOK_SECONDS = 1.0
"""Pause between looks: reading processor times costs microseconds, and limits are tens of seconds."""
BUSY_FACTOR = 10
"""An engine that computes but samples nothing gets this many times the limit: a first compilation takes minutes."""
BUSY_SHARE = 0.02
"""Share of the time spent running or ready to run. More means computing; idle threads that poll stay below it."""


class EngineWatch:
    """Watches one engine.

    Example::

        watch = EngineWatch(limit_seconds=60)
        problem = watch.look(asked=True, sampling=True, output=(tokens, answers), processor_seconds=12.5)
    """

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked_at = clock()
        self._output: Hashable = None
        self._processor_seconds = 0.0
        self._silent = self._still = 0.0

    def look(self, *, asked: bool, sampling: bool, output: Hashable, processor_seconds: float) -> str:
        """The problem of the engine; empty when there is none.

        ``asked``: requests or an update wait for it; ``sampling``: requests may get tokens. ``output`` changes with
        every token and answer. ``processor_seconds``: how long its processes ran or were ready to run, in all.
        """
        now = self._clock()
        # A late look means that this process was stopped or starved itself: count a normal interval at most.
        passed, self._looked_at = min(now - self._looked_at, 2 * LOOK_SECONDS), now
        busy, self._processor_seconds = processor_seconds - self._processor_seconds, processor_seconds
        moved, self._output = output != self._output, output
        still = asked and not moved and 0 <= busy < BUSY_SHARE * passed
        self._still = self._still + passed if still else 0.0
        self._silent = self._silent + passed if sampling and not moved else 0.0
        if self._still >= self._limit_seconds:
            return f"it was asked for something, and neither answered nor computed for {self._still:.0f} s"
        if self._silent >= BUSY_FACTOR * self._limit_seconds:
            return f"it computes, but sampled no token for {self._silent:.0f} s"
        return ""
