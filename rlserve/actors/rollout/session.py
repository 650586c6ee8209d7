"""The worker's end of the rollout stream: leases in, finished groups out, each until it is acknowledged.

``_read``   consumes frames of the learner; starts one task per lease.
            waits for: the learner. unblocked by: a credit, an ack, a goodbye, or a broken stream.
``_write``  sends hello, then whatever finished.
            waits for: a finished group. unblocked by: the task of a lease.

A group stays here until its ack has come; after a broken stream it is sent again under the same id, and the
learner answers "duplicate" if it had it. So nothing is lost and nothing is counted twice.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from rlserve.errors import EngineDied, RlserveError, TaskRefused
from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Work = Callable[[Lease], Awaitable[RolloutGroup]]
RETRY_SECONDS = 0.25


class StreamSession:
    """Keeps one stream to the learner, across reconnects, until the learner says goodbye."""

    def __init__(
        self,
        *,
        worker_id: str,
        run_id: str,
        incarnation: str,
        tokenizer_fingerprint: str,
        capacity: int,
        work: Work,
    ) -> None:
        self._hello = pb.Hello(
            worker_id=worker_id,
            run_id=run_id,
            incarnation=incarnation,
            tokenizer_fingerprint=tokenizer_fingerprint,
            capacity=capacity,
        )
        self._work = work
        self._running: dict[str, asyncio.Task[None]] = {}
        self._finished: dict[str, pb.StreamRequest] = {}
        self._outbox: asyncio.Queue[pb.StreamRequest] = asyncio.Queue()
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepting = asyncio.Event()
        self._accepting.set()
        self.acks: Counter[str] = Counter()
        """Acknowledgements by status, and rejections by reason."""

    @property
    def num_running(self) -> int:
        """Groups being worked on."""
        return len(self._running)

    @property
    def paused(self) -> bool:
        """True while new leases wait."""
        return not self._accepting.is_set()

    def pause(self) -> None:
        """Let new leases wait; what runs goes on."""
        self._accepting.clear()

    def resume(self) -> None:
        """Take new leases again."""
        self._accepting.set()

    async def run(self, connect: Callable[[], Awaitable[grpc.aio.Channel]]) -> str:
        """Stream until goodbye; returns its reason. ``connect`` finds the learner and may wait for it.

        Raises EngineDied when generation is over for this process.
        """
        try:
            while True:
                channel = await connect()
                try:
                    reason = await self._stream(channel)
                    if reason is not None:
                        return reason
                except grpc.aio.AioRpcError as error:
                    logger.warning("stream to the learner broke (%s); reconnecting", error.code().name)
                finally:
                    await channel.close()
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            for task in self._running.values():
                task.cancel()

    async def _stream(self, channel: grpc.aio.Channel) -> str | None:
        stub = pb_grpc.RolloutStreamServiceStub(channel)
        self._outbox = asyncio.Queue()
        for request in self._finished.values():
            self._outbox.put_nowait(request)
        call = stub.Stream(self._requests())
        reading: asyncio.Future[str | None] = asyncio.ensure_future(self._read(call))
        try:
            waits: set[asyncio.Future[Any]] = {reading, self._fatal}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            return await reading
        finally:
            reading.cancel()
            call.cancel()

    async def _requests(self) -> AsyncIterator[pb.StreamRequest]:
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        hello.held_group_ids.extend([*self._running, *self._finished])
        yield pb.StreamRequest(hello=hello)
        outbox = self._outbox
        while True:
            yield await outbox.get()

    async def _read(self, call: AsyncIterable[pb.StreamResponse]) -> str | None:
        is_ours = False
        async for response in call:
            match response.WhichOneof("frame"):
                case "credit":
                    for lease in response.credit.leases:
                        self._start(codec.lease_from_proto(lease))
                case "ack":
                    self._acknowledged(response.ack)
                case "goodbye" if is_ours:
                    return response.goodbye.reason or "finished"
                case "goodbye":
                    logger.warning("a goodbye came from something that is not this run's learner; looking for another")
                    return None
                case "welcome":
                    is_ours = response.welcome.run_id == self._hello.run_id
                    logger.info("joined run %s at version %d", self._hello.run_id, response.welcome.policy_version)
                case _:
                    logger.warning("the learner sent a frame that this version does not know")
        return None

    def _start(self, lease: Lease) -> None:
        if lease.group_id in self._finished:
            self._outbox.put_nowait(self._finished[lease.group_id])
        elif lease.group_id not in self._running:
            self._running[lease.group_id] = asyncio.create_task(self._do(lease))

    async def _do(self, lease: Lease) -> None:
        try:
            await self._accepting.wait()
            async with asyncio.timeout(lease.limit_seconds or None):
                group = await self._work(lease)
            request = pb.StreamRequest(group=codec.group_to_proto(group))
            self._finished[lease.group_id] = request
        except EngineDied as error:
            if not self._fatal.done():
                self._fatal.set_exception(error)
            return
        except Exception as error:  # what one task brings costs that task, never the worker
            reason = f"{type(error).__name__}: {error}"
            unknown = not isinstance(error, RlserveError | TimeoutError)
            logger.warning("giving back %s: %s", lease.group_id, reason, exc_info=unknown)
            drop = error.reason if isinstance(error, TaskRefused) else ""
            request = pb.StreamRequest(
                lease_return=pb.LeaseReturn(group_id=lease.group_id, reason=reason[:500], drop=drop)
            )
        finally:
            self._running.pop(lease.group_id, None)
        self._outbox.put_nowait(request)

    def _acknowledged(self, ack: pb.Ack) -> None:
        self._finished.pop(ack.group_id, None)
        status = pb.Ack.Status.Name(ack.status).removeprefix("STATUS_").lower()
        self.acks[status] += 1
        if ack.status == pb.Ack.STATUS_REJECTED:
            self.acks[f"rejected/{ack.reason}"] += 1
            logger.error("the learner rejected %s: %s", ack.group_id, ack.message)
