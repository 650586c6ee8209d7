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
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc.aio

from rlserve.actors.learner.ingest import frames
from rlserve.actors.learner.ingest.admission import Offer
from rlserve.actors.learner.ingest.byte_budget import ByteBudget
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.inbox_thread import HOUSEKEEPING_SECONDS, InboxThread
from rlserve.actors.learner.ingest.offers import Delivery, OfferQueue
from rlserve.actors.learner.ingest.worker_stream import Budgets, WorkerStream
from rlserve.errors import DeadlineExceeded, InvalidRequest
from rlserve.observability.events import EventLog
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RolloutStreamService"].full_name
GRANT_SECONDS = 0.02
"""Leases are granted at most so often: a grant of one costs as much as a grant of hundreds."""
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
        self._inbox = inbox
        self._max_group_bytes = max_group_bytes
        self._budgets = Budgets(small=ByteBudget(SMALL_BYTES), large=ByteBudget(LARGE_GROUPS * max_group_bytes))
        self._joined: set[str] = set()
        self._wake = asyncio.Event()
        self._woken = False
        self._finished = ""
        self._thread = InboxThread(inbox, served)
        loop = asyncio.get_running_loop()
        inbox.on_grantable(lambda: self._wake_from(loop))
        self._offers = OfferQueue(inbox, self._thread)
        self._tasks = [asyncio.create_task(self._offers.run()), asyncio.create_task(self._keep_house())]

    async def finish(self, reason: str) -> None:
        """Send goodbye to every worker, also to those that join later."""
        self._finished = reason
        for stream in self._thread.streams():
            self._say_goodbye(stream)

    async def close(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.close()

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
        await self._enter(stream, hello)
        if self._finished:  # meanwhile
            self._say_goodbye(stream)
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
            self._thread.leave(stream)

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
                await self._thread.call(self._inbox.progress, worker_id, frames.read_progress(request.progress))
            case "lease_return":
                back = request.lease_return
                frames.check_return(back)
                await self._thread.call(
                    self._inbox.return_lease,
                    back.group_id,
                    worker_id=worker_id,
                    nonce=back.nonce,
                    reason=back.reason,
                    drop=back.drop,
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

    def _say_goodbye(self, stream: WorkerStream) -> None:
        stream.outbox.send(pb.StreamResponse(goodbye=pb.Goodbye(reason=self._finished)))
        stream.end()

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

    async def _enter(self, stream: WorkerStream, hello: pb.Hello) -> None:
        worker_id = stream.worker_id
        held = {lease.group_id: lease.nonce for lease in hello.held}
        await self._thread.join(stream, capacity=hello.capacity, held=held)
        if self._events is not None and worker_id not in self._joined and len(self._joined) < MAX_JOINED:
            self._joined.add(worker_id)
            self._events.write("worker_joined", worker=worker_id, capacity=hello.capacity)

    async def _keep_house(self) -> None:
        while True:
            # While a batch is decided on its end grants, so that leases and acks of a worker share a frame.
            await self._thread.call(self._thread.look_after, grant=not self._offers.busy)
            self._thread.deliver()
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

    def wake(self) -> None:
        """Grant soon what may be granted; call it in the service's event loop."""
        self._wake.set()

    def _wake_from(self, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread. A wake that is pending is not repeated: each costs the event loop a turn."""
        # No lock: two threads that both read False wake the loop twice, which costs only a turn.
        if not self._woken and not loop.is_closed():
            self._woken = True
            loop.call_soon_threadsafe(self._wake.set)


async def _first(requests: AsyncIterator[pb.StreamRequest]) -> pb.StreamRequest | None:
    """The first frame, None at the end. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded(f"hello: none came within {HELLO_SECONDS:g} s; send it first, at once") from None
