"""RolloutStreamService: the inbox over gRPC. Leases and acks go down, finished groups come up.

Each stream has two tasks. ``_read`` waits for the worker's frames and puts groups into the ``OfferQueue``, which
acknowledges each once its decision is durable. ``Stream``, the generator that gRPC drains, waits for frames to send;
unblocked by: a lease, an ack, goodbye. A slow worker delays only itself: it is granted at most its capacity, and is
not read further while its acks wait. The bytes of all undecided groups are bounded over all streams.

Leases are granted behind each batch of decisions, so that acks and new leases share a frame. One housekeeping task for
all streams grants those that become free otherwise, and expires leases.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import grpc.aio

from rlserve.actors.learner.ingest import frames
from rlserve.actors.learner.ingest.admission import Offer
from rlserve.actors.learner.ingest.byte_budget import ByteBudget
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.offers import Delivery, OfferQueue
from rlserve.actors.learner.ingest.worker_stream import Budgets, WorkerStream
from rlserve.errors import DeadlineExceeded, InvalidRequest
from rlserve.observability.events import EventLog
from rlserve.rpc import codec
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RolloutStreamService"].full_name
HOUSEKEEPING_SECONDS = 0.2
"""Between two looks for expired leases: small against every deadline."""
GRANT_SECONDS = 0.02
"""Leases are granted at most so often: a grant of one costs as much as a grant of hundreds."""
LATE_SECONDS = 1.0
"""Housekeeping that is later than this was kept from running, and so were the readers: leases are prolonged by it."""
SMALL_BYTES = 64 * 2**20
"""Undecided groups of one part, over all streams; thousands of usual groups, and little beside a model."""
LARGE_GROUPS = 4
"""Undecided groups of the largest size, over all streams. Decoding one at a time needs no more."""
HELLO_SECONDS = 30.0
"""Deadline of the first frame: silent streams would use up the server's concurrent calls."""
MAX_JOINED = 4096
"""Workers whose first stream is an event; any bound will do, names come from outside."""


class RolloutStreamService(pb_grpc.RolloutStreamServiceServicer):
    """Create it in the event loop that serves it; ``close`` ends its tasks."""

    def __init__(
        self,
        inbox: Inbox,
        *,
        max_group_bytes: int,
        events: EventLog | None = None,
        served: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """``events`` records who joined; ``served`` gives the version of each worker (None: unknown, grant to all)."""
        self._events = events
        self._served = served
        self._inbox = inbox
        self._max_group_bytes = max_group_bytes
        self._budgets = Budgets(small=ByteBudget(SMALL_BYTES), large=ByteBudget(LARGE_GROUPS * max_group_bytes))
        self._streams: dict[str, WorkerStream] = {}
        self._joined: set[str] = set()
        self._wake = asyncio.Event()
        self._woken = False
        self._finished = ""
        loop = asyncio.get_running_loop()
        inbox.on_grantable(lambda: self._wake_from(loop))
        self._offers = OfferQueue(inbox, decided=self._grant_or_end)
        self._tasks = [asyncio.create_task(self._offers.run()), asyncio.create_task(self._keep_house())]

    async def finish(self, reason: str) -> None:
        """Send goodbye to every worker, also to those that join later."""
        self._finished = reason
        for stream in self._streams.values():
            stream.outbox.send(pb.StreamResponse(goodbye=pb.Goodbye(reason=reason)))
            stream.end()

    async def close(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def Stream(
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: Context
    ) -> AsyncIterator[pb.StreamResponse]:
        requests = aiter(request_iterator)
        hello = self._checked_hello(await _first(requests))
        # Before ``_enter``, which lets leases out: the worker needs the welcome's limits to send a group.
        yield pb.StreamResponse(welcome=self._welcome())
        if self._finished:
            yield pb.StreamResponse(goodbye=pb.Goodbye(reason=self._finished))
            return
        stream = WorkerStream(hello.worker_id, self._budgets)
        self._enter(stream, hello)
        reading = asyncio.create_task(self._read(requests, stream))
        try:
            while (frame := await stream.outbox.next()) is not None:
                yield frame
            if stream.error is not None:
                raise stream.error
        finally:
            reading.cancel()
            # Only of a group that is not whole; the bytes of offered groups are given back with their decisions.
            stream.incoming.close()
            self._leave(stream)

    async def _read(self, requests: AsyncIterator[pb.StreamRequest], stream: WorkerStream) -> None:
        """Read frames until the worker ends the stream or sends an invalid one."""
        try:
            while True:
                request = await self._next(requests, stream)
                if request is None:
                    break
                await self._take(request, stream)
        # The worker gets it as the status of the stream, behind the acks that wait.
        except Exception as error:
            stream.end(error)
        finally:
            stream.end()

    async def _next(self, requests: AsyncIterator[pb.StreamRequest], stream: WorkerStream) -> pb.StreamRequest | None:
        """The next frame, by the deadline of a group that is not whole; None at the end."""
        seconds = stream.incoming.seconds_left
        if seconds is None:
            return await anext(requests, None)
        try:
            async with asyncio.timeout(seconds):
                return await anext(requests, None)
        except TimeoutError:
            raise stream.incoming.too_slow() from None

    async def _take(self, request: pb.StreamRequest, stream: WorkerStream) -> None:
        worker_id = stream.worker_id
        kind = request.WhichOneof("frame")
        if kind == "group":
            for part, data in frames.read_parts(request, max_group_bytes=self._max_group_bytes):
                await self._take_part(part, data, stream)
            return
        frames.check_no_groups(request)
        match kind:
            case "progress":
                self._inbox.progress(worker_id, frames.read_progress(request.progress))
            case "lease_return":
                back = request.lease_return
                frames.check_return(back)
                self._inbox.return_lease(
                    back.group_id, worker_id=worker_id, nonce=back.nonce, reason=back.reason, drop=back.drop
                )
            case _:
                raise frames.second_hello()

    async def _take_part(self, part: pb.GroupPart, data: bytes, stream: WorkerStream) -> None:
        parts = len(data) < part.total_bytes
        payload = await stream.incoming.take(part, data)
        if payload is None:
            return
        try:
            await stream.outbox.expect_ack()
        except asyncio.CancelledError:
            # The stream ends: nothing will decide on the group, and its bytes are of a budget that all streams share.
            stream.incoming.done(len(payload), parts=parts)
            raise
        offer = Offer(group_id=part.group_id, nonce=part.nonce, worker_id=stream.worker_id, payload=payload)
        size = len(payload)
        self._offers.put(
            Delivery(
                offer,
                done=functools.partial(stream.done, size, parts),
                failed=functools.partial(stream.failed, size, parts),
            )
        )

    def _checked_hello(self, request: pb.StreamRequest | None) -> pb.Hello:
        if request is None or request.WhichOneof("frame") != "hello":
            raise InvalidRequest("hello: is missing; it is the first frame of a stream")
        settings = self._inbox.settings
        frames.check_hello(request.hello, run_id=settings.run_id, tokenizer_fingerprint=settings.tokenizer_fingerprint)
        return request.hello

    def _welcome(self) -> pb.Welcome:
        return pb.Welcome(
            run_id=self._inbox.settings.run_id,
            policy_version=self._inbox.queue.version,
            max_lag=self._inbox.settings.max_lag,
            max_group_bytes=self._max_group_bytes,
            part_bytes=frames.PART_BYTES,
        )

    def _enter(self, stream: WorkerStream, hello: pb.Hello) -> None:
        """A newer stream of the same worker ends the older one."""
        worker_id = stream.worker_id
        # A worker that dials again is often here before gRPC reports the end of its broken stream.
        if (older := self._streams.get(worker_id)) is not None:
            older.end()
        self._streams[worker_id] = stream
        held = {lease.group_id: lease.nonce for lease in hello.held}
        self._inbox.join(worker_id, capacity=hello.capacity, held=held)
        logger.info("%s joined the stream, capacity %d", worker_id, hello.capacity)
        if self._events is not None and worker_id not in self._joined and len(self._joined) < MAX_JOINED:
            self._joined.add(worker_id)
            self._events.write("worker_joined", worker=worker_id, capacity=hello.capacity)

    def _leave(self, stream: WorkerStream) -> None:
        # Not when a newer stream took this one's place: the worker is still connected.
        if self._streams.get(stream.worker_id) is stream:
            del self._streams[stream.worker_id]
            self._inbox.leave(stream.worker_id)
            logger.info("%s left the stream", stream.worker_id)

    async def _keep_house(self) -> None:
        looked = time.monotonic() - HOUSEKEEPING_SECONDS
        while True:
            since = time.monotonic() - looked
            with self._ending_the_run():
                if since >= HOUSEKEEPING_SECONDS:
                    looked += since
                    paused = since - HOUSEKEEPING_SECONDS
                    self._inbox.expire(paused_seconds=paused if paused > LATE_SECONDS else 0.0)
                # Else the end of the batch grants, so that leases and acks of a worker share a frame.
                if not self._offers.busy:
                    self._grant()
            # Not asyncio.wait_for: until Python 3.12 it loses a cancellation that meets the end of the wait
            # (https://github.com/python/cpython/issues/86296), and ``close`` would wait without end. asyncio.wait_for
            # will do once 3.12 is the oldest Python supported.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOUSEKEEPING_SECONDS):
                    await self._wake.wait()
                    await asyncio.sleep(GRANT_SECONDS)
            # Before the next grant, not after it: a wake during the grant must bring another one.
            self._wake.clear()
            self._woken = False

    @contextlib.contextmanager
    def _ending_the_run(self) -> Iterator[None]:
        """End the run when the block fails: no lease would be granted any more."""
        try:
            yield
        except Exception as error:
            logger.exception("the leases cannot be looked after")
            self._inbox.close(f"{type(error).__name__}: {error}")
            raise

    def wake(self) -> None:
        """Grant soon what may be granted; call it in the service's event loop."""
        self._wake.set()

    def _wake_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread. A wake that is pending is not repeated: each costs the event loop a turn."""
        # No lock: two threads that both read False wake the loop twice, which costs only a turn.
        if not self._woken and not loop.is_closed():
            self._woken = True
            loop.call_soon_threadsafe(self._wake.set)

    def _grant_or_end(self) -> None:
        with self._ending_the_run():
            self._grant()

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
            self._streams[worker_id].outbox.lease([codec.lease_to_proto(lease) for lease in leases])


async def _first(requests: AsyncIterator[pb.StreamRequest]) -> pb.StreamRequest | None:
    """The first frame, None at the end. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(f"hello: none came within {HELLO_SECONDS:g} s; send it first, at once") from None
