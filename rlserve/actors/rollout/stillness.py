"""For how long something has not moved, in time that this process could see."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_SECONDS = 2.0
"""Time between two looks counts for at most this: who was stopped or starved meanwhile cannot tell what moved."""

T = TypeVar("T")


class Stillness(Generic[T]):
    """Looks at a value now and then; see :meth:`look`."""

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit_seconds`` 0: for ever."""
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._looked_at = clock()
        self._last: T | None = None
        self.seconds = 0.0
        """Since it moved."""

    def look(self, value: T) -> bool:
        """Take note of the value at the moment; True when it has been the same for the limit."""
        now = self._clock()
        passed, self._looked_at = min(now - self._looked_at, LOOK_SECONDS), now
        if value != self._last:
            self._last, self.seconds = value, 0.0
        else:
            self.seconds += passed
        return 0 < self._limit_seconds <= self.seconds
