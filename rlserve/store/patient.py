"""Waits for a store whose server is away: its calls take longer then, and none fails before the limit.

A call that raised Unavailable may have taken effect. Every call of a store is safe to repeat; only rejections, which
are counted for people, may be counted twice.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from rlserve.errors import Unavailable
from rlserve.store.base import Store

T = TypeVar("T")
PAUSE_SECONDS = 0.5
"""Between two tries: a server that restarts is found again at once, and is not flooded."""
FIRST_WORDS_SECONDS = 10.0
"""From the first warning to the second; the next come after twice the time each."""


class Patience:
    """Repeats calls of a store while its server is away. Thread-safe: several may wait.

    Example, with a limit of 60 s and a server that is away for 15 s: a warning at once, another after 10 s, and a word
    when it is back. Away for longer than 60 s, every call raises Unavailable.
    """

    def __init__(
        self, *, limit_seconds: float, warn: Callable[[str], object], stop: threading.Event | None = None
    ) -> None:
        """``stop`` ends every wait."""
        self._limit_seconds = limit_seconds
        self._warn = warn
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._since: float | None = None
        self._next_words = 0.0

    def call(self, function: Callable[[], T]) -> T:
        """The result of ``function``, repeated while it raises Unavailable."""
        failed = False
        while True:
            try:
                result = function()
            except Unavailable as error:
                failed = True
                self._away(error)
                if self._stop.wait(PAUSE_SECONDS):
                    raise
            else:
                # Not after any call: a server with a full disk still answers those that only read.
                if failed:
                    self._back()
                return result

    def _away(self, error: Unavailable) -> None:
        with self._lock:
            now = time.monotonic()
            if self._since is None:
                self._since, self._next_words = now, FIRST_WORDS_SECONDS / 2
                self._warn(f"{error}; workers keep their groups, and the run goes on when it is back")
                return
            away = now - self._since
            if away > self._limit_seconds:
                raise Unavailable(
                    f"{error}. It was away for {self._limit_seconds:.0f} s (learner.max_wait_seconds): the run ends. "
                    "Nothing that it accepted is lost; resume when the server is back"
                ) from error
            if away > 2 * self._next_words:
                self._next_words = away
                self._warn(
                    f"{error}; away for {away:.0f} s, and the run ends after {self._limit_seconds:.0f} s "
                    "(learner.max_wait_seconds)"
                )

    def _back(self) -> None:
        with self._lock:
            if self._since is not None:
                self._warn(f"store: it is back after {time.monotonic() - self._since:.1f} s; the run goes on")
                self._since = None


class _Patient:
    """Every method of a store, called with patience."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *arguments, **named: self._patience.call(partial(method, *arguments, **named))


def patient(store: Store, patience: Patience) -> Store:
    """The same store, whose calls wait while its server is away."""
    return cast(Store, _Patient(store, patience))
