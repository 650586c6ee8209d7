"""An event loop in a thread of its own, for servers beside code that blocks."""

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


class LoopThread:
    """Runs coroutines for a caller that has no event loop.

    The thread is a daemon: a main thread that ends without :meth:`close` takes it along.
    """

    def __init__(self, name: str = "rpc") -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, for ``call_soon_threadsafe``."""
        return self._loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start a coroutine on the loop. Raises NotReady after :meth:`close`."""
        if not self._thread.is_alive():
            coroutine.close()
            raise NotReady(f"event loop {self._name!r}: is closed; submit before closing it")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine and wait for its result, at most ``timeout`` seconds.

        On DeadlineExceeded the coroutine is cancelled. Do not call it from the loop's own thread.
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
        cancelling = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
        try:
            cancelling.result(CLOSE_SECONDS)
        except concurrent.futures.TimeoutError:
            logger.warning(
                "event loop %r: is stuck in a callback for %g s; it is left behind", self._name, CLOSE_SECONDS
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
    await asyncio.wait(tasks, timeout=CLOSE_SECONDS / 2) if tasks else None
