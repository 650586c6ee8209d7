"""The inbox's lock, with the two signals that a change sends: to threads that wait for groups, and to the service."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rlserve.errors import DeadlineExceeded, NotReady


class Monitor:
    """A lock whose holder may wait for a change.

    ``with monitor:`` takes the lock, to read or for a change that no thread waits for; ``with monitor.change():`` also
    signals both sides. A change that raises sends no signal.
    """

    def __init__(self, *, check: Callable[[], None], delay: Callable[[], str]) -> None:
        """``check`` is called before each wait and may raise; ``delay`` gives the text why a wait got nothing."""
        self._condition = threading.Condition()  # its lock is reentrant: a change may be part of another
        self._check = check
        self._delay = delay
        self._closed = ""
        self.wake: Callable[[], object] = lambda: None
        """Tells the service that there may be leases to grant; must not block."""

    def __enter__(self) -> None:
        self._condition.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._condition.release()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock, then signal."""
        with self._condition:
            yield
            self._condition.notify_all()
        self.wake()  # without the lock, which the service takes next

    def notify(self) -> None:
        """Let the waiting threads look again; call it with the lock held."""
        self._condition.notify_all()

    def wait_for(self, ready: Callable[[], bool], deadline_seconds: float, missing: Callable[[], str]) -> None:
        """Wait until ``ready``; call it with the lock held, which others get meanwhile.

        Raises DeadlineExceeded with what is ``missing`` and why, NotReady once closed, and what ``check`` raises.
        """
        deadline = time.monotonic() + deadline_seconds
        # ``ready`` comes before ``_closed``: what is there already is handed out even from a closed inbox.
        while not ready():
            if self._closed:
                raise NotReady(f"inbox: is closed ({self._closed})")
            # Before every wait: the groups that came meanwhile may have shown that the run cannot go on.
            self._check()
            if (left := deadline - time.monotonic()) <= 0:
                raise DeadlineExceeded(f"{missing()}; {self._delay()}")
            self._condition.wait(left)

    def wait_closed(self, seconds: float) -> bool:
        """Wait so long without the lock; whether it was closed by then."""
        with self._condition:
            return self._condition.wait_for(lambda: bool(self._closed), seconds)

    def close(self, reason: str) -> None:
        """End all waits, now and later."""
        with self._condition:
            self._closed = reason
            self._condition.notify_all()
