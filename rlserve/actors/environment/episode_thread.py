"""A thread for calls into one plug-in, so that a hanging call delays no other and thread-local state is kept."""

import asyncio
import contextlib
import queue
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, TypeVar

from rlserve.errors import PluginFailed, RlserveError

T = TypeVar("T")


class EpisodeThread:
    """Runs calls one after another. Use from one event loop.

    The thread is a daemon: a call that never returns outlives ``end``, but not the process. ``on_end`` is called
    in the loop only when the thread has ended, so that a stuck one still counts against a limit.

    Example::

        thread = EpisodeThread("environment 'chess'", on_end=free_a_place)
        turn = await thread.call(lambda: episode.step("e4"))
        thread.end(episode.close)
    """

    def __init__(self, name: str, *, on_end: Callable[[], None]) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        # SimpleQueue has no limit, so that put() never blocks the event loop.
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def frame(self) -> FrameType | None:
        """The thread's current frame; None once it has ended."""
        return sys._current_frames().get(self._thread.ident or 0)

    async def call(self, work: Callable[[], T]) -> T:
        """The result of ``work()``. Raises its RlserveError; every other exception becomes PluginFailed."""
        call = _Call(work, self._loop.create_future())
        self._calls.put(call)
        # The error is a value: asyncio logs an exception set on a future that is never awaited, such as that of
        # ``last``.
        result, error = await call.outcome
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # None only if work() returned it

    def end(self, last: Callable[[], object] | None = None) -> None:
        """End the thread after ``last``, whose errors are ignored because no caller waits for it."""
        if last is not None:
            outcome: asyncio.Future[tuple[object, RlserveError | None]] = self._loop.create_future()
            self._calls.put(_Call(last, outcome))
        self._calls.put(None)

    def _run(self) -> None:
        # A closed loop raises RuntimeError: the server is gone, and no caller waits any more.
        with contextlib.suppress(RuntimeError):
            while (call := self._calls.get()) is not None:
                self._loop.call_soon_threadsafe(call.set_outcome, *self._outcome(call.work))
            self._loop.call_soon_threadsafe(self._on_end)

    def _outcome(self, work: Callable[[], T]) -> tuple[T | None, RlserveError | None]:
        try:
            return work(), None
        except RlserveError as error:
            return None, error
        except BaseException as error:  # also SystemExit: a plug-in must not end the server
            return None, PluginFailed(f"{self._name}: {type(error).__name__}: {error}")


class _Call(Generic[T]):
    """A call and the future of its outcome."""

    def __init__(self, work: Callable[[], T], outcome: "asyncio.Future[tuple[T | None, RlserveError | None]]") -> None:
        self.work = work
        self.outcome = outcome

    def set_outcome(self, result: T | None, error: RlserveError | None) -> None:
        """Complete the future, unless its waiter was cancelled."""
        if not self.outcome.done():
            self.outcome.set_result((result, error))
