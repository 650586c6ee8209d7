"""An event loop in a thread of its own, for a server in a process whose main thread blocks."""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from rlserve.errors import DeadlineExceeded, NotReady

logger = logging.getLogger(__name__)
T = TypeVar("T")

CLOSE_SECONDS = 10.0
"""Time in which cancelled coroutines may clean up. Any value of this size will do: longer than a server's grace and
stop (7 s by default), and shorter than an operator waits."""


class LoopThread:
    """Runs coroutines for a caller without an event loop. Its life::

        thread = LoopThread("policy server")
        server = thread.run(start_server(), timeout=10)     # waits for the result
        future = thread.submit(watch(server))               # does not wait
        thread.close()                                      # cancels watch, lets it clean up, joins the thread

    The thread is a daemon: a main thread that ends without :meth:`close` ends it too.
    """

    def __init__(self, name: str = "rpc") -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, for ``call_soon_threadsafe``."""
        return self._loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start a coroutine on the loop. Raises NotReady after :meth:`close`."""
        if not self._thread.is_alive():
            coroutine.close()  # else Python warns that it was never awaited
            raise NotReady(f"event loop {self._name!r}: is closed; submit before closing it")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine and wait for its result, at most ``timeout`` seconds.

        When they pass, it cancels the coroutine and raises DeadlineExceeded. Not for the loop's own thread, which it
        would block.
        """
        name = getattr(coroutine, "__qualname__", repr(coroutine))
        future = self.submit(coroutine)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            if future.done():  # the coroutine itself raised it
                raise
            future.cancel()
            raise DeadlineExceeded(f"{name}: did not end within {timeout:g} s; it was cancelled") from None

    def close(self) -> None:
        """Cancel what still runs, let it clean up, stop the loop and join the thread."""
        if not self._thread.is_alive():
            return
        # Cancel before stopping: on a stopped loop no finally block of a coroutine would run any more.
        cancelling = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        try:
            cancelling.result(CLOSE_SECONDS)
        except concurrent.futures.TimeoutError:
            logger.warning(
                "event loop %r: a callback blocks it for %g s; it ends with this process", self._name, CLOSE_SECONDS
            )
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    # Half the time, so that a task which ignores its cancellation does not look like a blocked loop in close().
    await asyncio.wait(tasks, timeout=CLOSE_SECONDS / 2) if tasks else None
