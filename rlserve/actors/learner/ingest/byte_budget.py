"""A bound on bytes, or groups, that are held together: a first-come, first-served semaphore with amounts."""

import asyncio
import contextlib
from collections import deque


class ByteBudget:
    """A large request is not overtaken by small ones. For one event loop.

    Example, with limit 10: ``take(6)`` returns at once, ``take(8)`` waits, and a ``take(1)`` after it waits behind it;
    ``give(6)`` lets both through.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return self.limit - self._free

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes (at most the limit) are free and take them; ``give`` them back."""
        if not self._queue and count <= self._free:
            self._free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            # A cancellation may meet the grant of the same turn of the loop: the bytes are taken then.
            if turn.done() and not turn.cancelled():
                self.give(count)
            else:
                # A ``give`` since the cancellation has taken the turn out of the queue already.
                with contextlib.suppress(ValueError):
                    self._queue.remove((count, turn))
                self._serve()
            raise

    def give(self, count: int) -> None:
        """Give bytes back."""
        self._free += count
        self._serve()

    def _serve(self) -> None:
        while self._queue and self._queue[0][0] <= self._free:
            count, turn = self._queue.popleft()
            if not turn.cancelled():
                self._free -= count
                turn.set_result(None)
