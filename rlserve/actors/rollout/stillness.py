"""How long a value stayed the same, counting only time in which this process was running."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_SECONDS = 2.0
"""Time between two looks counts for at most this: a process that was stopped or starved in between may have missed a
change. Several times the pause between looks, so that a busy machine does not slow the count down."""

T = TypeVar("T")


class Stillness(Generic[T]):
    """Watches a value that should change.

    Example::

        still = Stillness(limit_seconds=120)
        while not still.look(progress()):   # True once progress() returned the same for 120 s
            await asyncio.sleep(0.5)
    """

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit_seconds`` 0 means no limit."""
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked_at = clock()
        self._last: T | None = None
        self.seconds = 0.0
        """Time since the last change."""

    def look(self, value: T) -> bool:
        """Record the present value; True once it stayed the same for the limit."""
        now = self._clock()
        passed, self._looked_at = min(now - self._looked_at, LOOK_SECONDS), now
        if value != self._last:
            self._last, self.seconds = value, 0.0
        else:
            self.seconds += passed
        return 0 < self._limit_seconds <= self.seconds
