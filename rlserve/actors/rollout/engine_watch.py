"""Tells an engine that hangs from one that is slow: a pure state machine that is shown both once a second.

An engine that is asked for something *stands still* when no token comes and its processes neither run nor wait for a
processor: it is frozen, or waits for something that never comes. It *hangs busily* when no token comes for much
longer although it computes: so looks a kernel that never returns while its caller spins. A starved machine, a first
compilation, a long prompt and an update of weights do neither: they use the processor, or wait for it.
"""

import time
from collections.abc import Callable, Hashable

LOOK_SECONDS = 1.0
BUSY_FACTOR = 10
"""An engine that computes, but samples nothing, has this many times the limit."""
BUSY_SHARE = 0.02
"""Of the time, spent running or ready to run: more is computing, less are threads that look after something."""


class EngineWatch:
    """See :meth:`look`."""

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked_at = clock()
        self._output: Hashable = None
        self._processor_seconds = 0.0
        self._silent = self._still = 0.0

    def look(self, *, asked: bool, sampling: bool, output: Hashable, processor_seconds: float) -> str:
        """What is wrong with the engine; empty when nothing is.

        ``asked``: something waits for it, requests or an update; ``sampling``: requests may get tokens. ``output``
        changes with every token and answer; ``processor_seconds`` is how long its processes ran or were ready to
        run.
        """
        now = self._clock()
        # Who looks late was stopped or starved itself, and cannot tell.
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
