"""Calls the inbox in one thread, in the order of the calls, and grants leases there.

The inbox may wait for a store whose server is away. Meanwhile streams are read no further, and their event loop goes
on with heartbeats and weights.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.worker_stream import WorkerStream
from rlserve.records import Lease
from rlserve.rpc import codec

logger = logging.getLogger(__name__)

T = TypeVar("T")
HOUSEKEEPING_SECONDS = 0.2
"""Between two looks for expired leases: small against every deadline."""
LATE_SECONDS = 1.0
"""Housekeeping that is later than this was kept from running, and so were the readers: leases are prolonged by it."""


class InboxThread:
    """The methods that are no coroutine, ``deliver`` apart, run in the thread: give them to ``call``."""

    def __init__(self, inbox: Inbox, served: Callable[[], Mapping[str, int]] | None) -> None:
        """``served`` gives the version of each worker (None: unknown, grant to all)."""
        self._inbox = inbox
        self._served = served
        self._streams: dict[str, WorkerStream] = {}
        """Changed in the thread alone, so that it agrees with what the inbox knows of the workers."""
        self._granted: deque[tuple[WorkerStream, list[Lease]]] = deque()
        self._looked = time.monotonic() - HOUSEKEEPING_SECONDS
        # One, not those of asyncio.to_thread in turn: on another core each batch would find cold caches.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inbox")

    async def call(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """The result of ``function``, called behind all calls before."""
        call = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def join(self, stream: WorkerStream, *, capacity: int, held: Mapping[str, str]) -> None:
        """A worker has a stream; it ends the older one of the same worker."""
        try:
            older = await self.call(self._join, stream, capacity=capacity, held=held)
        except BaseException:  # the worker went while it waited to join
            self.leave(stream)
            raise
        # A worker that dials again is often here before gRPC reports the end of its broken stream.
        if older is not None:
            older.end()

    def leave(self, stream: WorkerStream) -> None:
        """A stream ended; the call does not wait."""
        with contextlib.suppress(RuntimeError):  # the thread is closed already
            self._executor.submit(self._leave, stream)

    def streams(self) -> list[WorkerStream]:
        """The streams of all workers."""
        return list(self._streams.values())

    def deliver(self) -> None:
        """Send what was granted. In the event loop."""
        while self._granted:
            stream, leases = self._granted.popleft()
            stream.outbox.lease([codec.lease_to_proto(lease) for lease in leases])

    def look_after(self, *, grant: bool) -> None:
        """Take leases back that expired; grant others."""
        with self._ending_the_run():
            if time.monotonic() - self._looked >= HOUSEKEEPING_SECONDS:
                self._inbox.expire(paused=self._paused_seconds)
            if grant:
                self._grant()

    def grant(self) -> None:
        """Grant leases; ``deliver`` sends them."""
        with self._ending_the_run():
            self._grant()

    def close(self) -> None:
        """End the thread after the call in progress, which must not hold up the event loop."""
        self._executor.shutdown(wait=False)

    def _join(self, stream: WorkerStream, *, capacity: int, held: Mapping[str, str]) -> WorkerStream | None:
        older = self._streams.get(stream.worker_id)
        self._streams[stream.worker_id] = stream
        self._inbox.join(stream.worker_id, capacity=capacity, held=held)
        logger.info("%s joined the stream, capacity %d", stream.worker_id, capacity)
        return older

    def _leave(self, stream: WorkerStream) -> None:
        # Not when a newer stream took this one's place: the worker is still connected.
        if self._streams.get(stream.worker_id) is stream:
            del self._streams[stream.worker_id]
            self._inbox.leave(stream.worker_id)
            logger.info("%s left the stream", stream.worker_id)

    def _grant(self) -> None:
        """Grant leases, none to a worker whose weights are so old that its samples would be stale."""
        ready, current = set(self._streams), None
        if self._served is not None:
            newest, served = self._inbox.queue.version, self._served()
            oldest = newest - self._inbox.settings.max_lag
            # A worker that has confirmed nothing since this learner started is not known to serve any weights.
            ready = {worker for worker in ready if worker in served and served[worker] >= oldest}
            current = {worker for worker in ready if served[worker] == newest}
        for worker_id, leases in self._inbox.grant(ready=ready, current=current).items():
            self._granted.append((self._streams[worker_id], leases))

    def _paused_seconds(self) -> float:
        """For how long the leases were not looked after, up to now."""
        since = time.monotonic() - self._looked
        self._looked += since
        paused = since - HOUSEKEEPING_SECONDS
        return paused if paused > LATE_SECONDS else 0.0

    @contextlib.contextmanager
    def _ending_the_run(self) -> Iterator[None]:
        """End the run when the block fails: no lease would be granted any more."""
        try:
            yield
        except Exception as error:
            logger.exception("the leases cannot be looked after")
            self._inbox.close(f"{type(error).__name__}: {error}")
            raise
