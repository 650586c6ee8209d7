"""When to restart a process and when to give up: pure state machines, with the clock passed in."""

from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 600.0
"""Deaths further apart than this are unrelated; a crash that repeats does so within minutes."""
MAX_PAUSE_SECONDS = 30.0
"""Longer pauses would only delay a recovery; the number of restarts bounds the attempts."""


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


HOPELESS_STARTS = 3
"""Equal failures in a row: two may be chance, a port that is still taken for example."""


@dataclass(slots=True)
class StartFailures:
    """Recognises a start that fails the same way each time.

    Example: the same last words three times from an actor that never registered: hopeless at the third.
    """

    _said: str = ""
    _times: int = 0

    def is_hopeless(self, said: str, *, came_up: bool) -> bool:
        """Whether another start of an actor that died with these last words, and never registered, is useless."""
        # Without last words two deaths cannot be compared: a kill from outside leaves none.
        self._times = self._times + 1 if said and said == self._said else 1
        self._said = said
        return bool(said) and not came_up and self._times >= HOPELESS_STARTS
