"""RolloutStreamService: the inbox over gRPC. Leases and acks down, finished groups up.

Per stream two tasks. ``_read`` waits for the worker's frames and answers each group after it is durable;
``_write`` (the generator that gRPC drains) waits for frames to send. Unblocked by: a credit, an ack, goodbye. A
slow reader holds back nothing but itself: it is granted at most its capacity, and each group brings one ack.

One housekeeping task for all streams grants leases when something may have changed, and takes back what ran out.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from rlserve.actors.learner.border import AckDecision, AckStatus
from rlserve.actors.learner.inbox import Inbox
from rlserve.errors import InvalidRequest
from rlserve.observability.events import EventLog
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RolloutStreamService"].full_name
HOUSEKEEPING_SECONDS = 0.2
MAX_CAPACITY = 4096
STATUS = {
    AckStatus.ACCEPTED: pb.Ack.STATUS_ACCEPTED,
    AckStatus.DUPLICATE: pb.Ack.STATUS_DUPLICATE,
    AckStatus.STALE: pb.Ack.STATUS_STALE,
    AckStatus.REJECTED: pb.Ack.STATUS_REJECTED,
}


class RolloutStreamService(pb_grpc.RolloutStreamServiceServicer):
    """Create it in the event loop that serves it; ``close`` ends its housekeeping."""

    def __init__(
        self,
        inbox: Inbox,
        *,
        limits: GroupLimits,
        max_message_bytes: int,
        events: EventLog | None = None,
        served: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """``events`` is told who joined; ``served`` says which version each worker serves, as far as is known."""
        self._events = events
        self._served = served
        self._inbox = inbox
        self._limits = limits
        self._max_message_bytes = max_message_bytes
        self._loop = asyncio.get_running_loop()
        self._outboxes: dict[str, asyncio.Queue[pb.StreamResponse | None]] = {}
        self._wake = asyncio.Event()
        self._finished = ""
        inbox.on_credit(lambda: self._loop.call_soon_threadsafe(self._wake.set))
        self._housekeeping = asyncio.create_task(self._keep_house())

    async def finish(self, reason: str) -> None:
        """Say goodbye to every worker, also to those that come later."""
        self._finished = reason
        for outbox in self._outboxes.values():
            outbox.put_nowait(pb.StreamResponse(goodbye=pb.Goodbye(reason=reason)))
            outbox.put_nowait(None)

    async def close(self) -> None:
        """End the housekeeping."""
        self._housekeeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._housekeeping

    async def Stream(
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: Context
    ) -> AsyncIterator[pb.StreamResponse]:
        frames = aiter(request_iterator)
        hello = self._checked_hello(await anext(frames, None))
        outbox: asyncio.Queue[pb.StreamResponse | None] = asyncio.Queue()
        yield pb.StreamResponse(welcome=self._welcome())
        if self._finished:
            yield pb.StreamResponse(goodbye=pb.Goodbye(reason=self._finished))
            return
        self._take_over(hello.worker_id, outbox)
        self._inbox.join(hello.worker_id, capacity=hello.capacity, held=hello.held_group_ids)
        logger.info("%s joined the stream, capacity %d", hello.worker_id, hello.capacity)
        if self._events is not None:
            self._events.write("worker_joined", worker=hello.worker_id, capacity=hello.capacity)
        reading = asyncio.create_task(self._read(frames, hello.worker_id, outbox))
        try:
            while (frame := await outbox.get()) is not None:
                yield frame
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            self._leave(hello.worker_id, outbox)

    async def _read(
        self, frames: AsyncIterator[pb.StreamRequest], worker_id: str, outbox: asyncio.Queue[pb.StreamResponse | None]
    ) -> None:
        try:
            async for request in frames:
                match request.WhichOneof("frame"):
                    case "group":
                        decision = await asyncio.to_thread(self._offer, request.group, worker_id)
                        outbox.put_nowait(pb.StreamResponse(ack=_ack(decision)))
                    case "lease_return":
                        back = request.lease_return
                        self._inbox.returned(
                            back.group_id, worker_id=worker_id, reason=back.reason[:500], drop=back.drop
                        )
                    case _:
                        error = InvalidRequest(
                            "frame: is a second hello or unknown; send groups and lease returns after the hello"
                        )
                        outbox.put_nowait(
                            pb.StreamResponse(ack=_ack(self._inbox.reject("", error, worker_id=worker_id)))
                        )
        finally:
            outbox.put_nowait(None)

    def _offer(self, message: Any, worker_id: str) -> AckDecision:
        try:
            group = codec.group_from_proto(message, limits=self._limits)
        except InvalidRequest as error:
            return self._inbox.reject(message.group_id, error, worker_id=worker_id)
        return self._inbox.offer(group, _bytes(message), worker_id=worker_id)

    def _checked_hello(self, request: pb.StreamRequest | None) -> pb.Hello:
        if request is None or request.WhichOneof("frame") != "hello":
            raise InvalidRequest("hello: is missing; it is the first frame of a stream")
        hello, settings = request.hello, self._inbox.settings
        if not hello.worker_id:
            raise InvalidRequest("hello.worker_id: is empty; name the worker")
        if hello.run_id != settings.run_id:
            raise InvalidRequest(f"hello.run_id: is {hello.run_id!r}; this learner runs {settings.run_id!r}")
        if hello.tokenizer_fingerprint != settings.tokenizer_fingerprint:
            raise InvalidRequest(
                f"hello.tokenizer_fingerprint: {hello.worker_id} has another tokenizer than the learner; start both "
                "from the same model"
            )
        if not 1 <= hello.capacity <= MAX_CAPACITY:
            raise InvalidRequest(f"hello.capacity: is {hello.capacity}; give 1 to {MAX_CAPACITY}")
        return hello

    def _welcome(self) -> pb.Welcome:
        return pb.Welcome(
            run_id=self._inbox.settings.run_id,
            policy_version=self._inbox.version,
            max_lag=self._inbox.settings.max_lag,
            max_message_bytes=self._max_message_bytes,
        )

    def _take_over(self, worker_id: str, outbox: asyncio.Queue[pb.StreamResponse | None]) -> None:
        """A newer stream of the same worker ends the older one."""
        if (older := self._outboxes.get(worker_id)) is not None:
            older.put_nowait(None)
        self._outboxes[worker_id] = outbox

    def _leave(self, worker_id: str, outbox: asyncio.Queue[pb.StreamResponse | None]) -> None:
        if self._outboxes.get(worker_id) is outbox:
            del self._outboxes[worker_id]
            self._inbox.leave(worker_id)
            logger.info("%s left the stream", worker_id)

    async def _keep_house(self) -> None:
        while True:
            self._inbox.expire()
            self._grant()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), HOUSEKEEPING_SECONDS)
            self._wake.clear()

    def wake(self) -> None:
        """Look again for leases to hand out; call it in the service's event loop."""
        self._wake.set()

    def _grant(self) -> None:
        """No lease goes to a worker whose weights are so old already that its samples would be dropped."""
        oldest, served = self._inbox.version - self._inbox.settings.max_lag, self._served()
        ready = {worker for worker in self._outboxes if served.get(worker, oldest) >= oldest}
        for worker_id, leases in self._inbox.grant(ready=ready).items():
            credit = pb.Credit(leases=[codec.lease_to_proto(lease) for lease in leases])
            self._outboxes[worker_id].put_nowait(pb.StreamResponse(credit=credit))


def _ack(decision: AckDecision) -> pb.Ack:
    return pb.Ack(
        group_id=decision.group_id,
        status=STATUS[decision.status],
        reason=decision.reason,
        message=decision.message,
    )


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
