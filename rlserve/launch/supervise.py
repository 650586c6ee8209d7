"""When to restart a process and when to give up: a pure state machine."""

from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 600.0
MAX_PAUSE_SECONDS = 30.0


@dataclass(slots=True)
class RestartPolicy:
    """Back-off that doubles with each death inside a sliding window.

    Example with backoff 0.5 and three deaths in a row: pauses 0.5, 1.0, 2.0 seconds.
    """

    backoff_seconds: float
    max_restarts: int
    _deaths: deque[float] = field(default_factory=deque)

    def pause_after_death(self, now: float) -> float | None:
        """Seconds to wait before the next start, or None: give up."""
        while self._deaths and now - self._deaths[0] > WINDOW_SECONDS:
            self._deaths.popleft()
        self._deaths.append(now)
        if len(self._deaths) > self.max_restarts:
            return None
        return float(min(self.backoff_seconds * 2 ** (len(self._deaths) - 1), MAX_PAUSE_SECONDS))
