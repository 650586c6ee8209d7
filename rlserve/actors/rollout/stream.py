"""The worker's end of the rollout stream: receive leases, work on them, send finished groups until acknowledged.

``_read``      reads frames of the learner and starts one task per lease.
               waits for: the learner. unblocked by: a grant of leases, an ack, a goodbye, or a broken stream.
``_requests``  sends hello, then each finished group and returned lease.
               waits for: the learner's welcome, then the outbox. unblocked by: the task of a lease.
``_report``    sends the progress of running leases every few seconds, which renews them.
``_watch``     returns a lease without progress for its limit. A lease with progress is never cancelled.

A finished group stays here until its ack arrives. After a broken stream it is sent again under the same id, and the
learner answers "duplicate" if it already has it: nothing is lost and nothing is counted twice.

Example::

    session = StreamSession(worker_id="rollout-0", run_id="r", incarnation="a1", tokenizer_fingerprint="...",
                            capacity=32, work=worker.work, progress_of=worker.progress)
    reason = await session.run(connect)   # returns when the learner says goodbye, reconnects until then
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio

from rlserve.actors.rollout.lease_frames import FinishedGroup, described, lease_return, together
from rlserve.actors.rollout.stages import WorkProgress
from rlserve.actors.rollout.stillness import Stillness
from rlserve.errors import ConfigError, EngineDied, InvalidRequest, RlserveError, TaskRefused
from rlserve.records import RolloutGroup
from rlserve.records.lease import REPORT_SECONDS, Lease
from rlserve.rpc import codec
from rlserve.rpc.codec.check import wire_text
from rlserve.rpc.status import error_from_rpc
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Work = Callable[[Lease], Awaitable[RolloutGroup]]
ProgressOf = Callable[[str], WorkProgress]
"""The progress of the work on a group, by its id."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 0.25, 5.0
"""Pause before reconnecting; it doubles up to the maximum, within which a restarted learner is found."""
WATCH_SECONDS = 0.5
"""Pause between two looks for leases without progress. Any value well below a lease's limit will do."""
MAX_BREACHES = 5
"""Streams in a row that the learner ended because of a frame of this worker: sending it again would not help."""
MAX_REFUSALS = 3
"""Refusals in a row before the first welcome. One may come from another run's learner at a reused address."""


@dataclass(slots=True, eq=False)
class _Running:
    """A lease and the task that works on it."""

    lease: Lease
    still: Stillness[WorkProgress]
    task: asyncio.Task[None] | None = None
    reported: WorkProgress = field(default_factory=WorkProgress)
    stuck: str = ""
    """Why ``_watch`` cancelled the task; empty while it did not."""


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
        progress_of: ProgressOf = lambda group_id: WorkProgress(),
    ) -> None:
        self._hello = pb.Hello(
            worker_id=worker_id,
            run_id=run_id,
            incarnation=incarnation,
            tokenizer_fingerprint=tokenizer_fingerprint,
            capacity=capacity,
        )
        self._work = work
        self._progress_of = progress_of
        self._running: dict[str, _Running] = {}
        self._finished: dict[str, FinishedGroup] = {}
        self._outbox: asyncio.Queue[pb.StreamRequest | FinishedGroup] = asyncio.Queue()
        self._welcome: asyncio.Future[pb.Welcome] = asyncio.get_running_loop().create_future()
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepting = asyncio.Event()
        self._accepting.set()
        self._breaches = 0
        self.acks: Counter[str] = Counter()
        """Acknowledgements by status, and rejections by reason."""

    @property
    def num_running(self) -> int:
        """Groups being worked on."""
        return len(self._running)

    @property
    def paused(self) -> bool:
        """True while new leases are held back."""
        return not self._accepting.is_set()

    def pause(self) -> None:
        """Hold new leases back; running ones continue."""
        self._accepting.clear()

    def resume(self) -> None:
        """Start the leases that were held back, and new ones."""
        self._accepting.set()

    async def run(self, connect: Callable[[], Awaitable[grpc.aio.Channel]]) -> str:
        """Stream until goodbye and return its reason. ``connect`` finds the learner and may wait for it.

        Raises EngineDied when this process cannot generate any more, ConfigError when the learner refuses the worker.
        """
        # Over all streams: the work on leases goes on while no learner can be reached.
        watching = asyncio.create_task(self._watch())
        pause = RETRY_SECONDS
        try:
            while True:
                # A new one each time: a restarted learner may have another address.
                channel = await connect()
                try:
                    reason = await self._stream(channel)
                    if reason is not None:
                        return reason
                except grpc.aio.AioRpcError as error:
                    self._check_broken(error_from_rpc(error, what="the learner"))
                finally:
                    await channel.close()
                # Back off only from a learner that never welcomed this stream: it is restarting, or is none.
                pause = RETRY_SECONDS if self._welcome.done() else min(2 * pause, MAX_RETRY_SECONDS)
                await asyncio.sleep(pause)
        finally:
            watching.cancel()
            for running in self._running.values():
                if running.task is not None:
                    running.task.cancel()

    def _check_broken(self, error: RlserveError) -> None:
        """Return to reconnect, or raise when the next stream would break for the same reason."""
        breach = isinstance(error, InvalidRequest)
        self._breaches = self._breaches + 1 if breach else 0
        if breach and not self._welcome.done() and self._breaches >= MAX_REFUSALS:
            raise ConfigError(f"{self._hello.worker_id}: {error}")
        if self._breaches >= MAX_BREACHES:
            raise error
        logger.warning("stream to the learner broke (%s: %s); reconnecting", type(error).__name__, error)

    async def _stream(self, channel: grpc.aio.Channel) -> str | None:
        stub = pb_grpc.RolloutStreamServiceStub(channel)
        # A new outbox for each stream: the old one holds outdated progress, and all finished groups follow here. A
        # returned lease that was still in it needs no frame: hello no longer lists it as held.
        self._outbox = asyncio.Queue()
        self._welcome = asyncio.get_running_loop().create_future()
        for finished in self._finished.values():
            self._outbox.put_nowait(finished)
        call = stub.Stream(self._requests())
        reading: asyncio.Future[str | None] = asyncio.ensure_future(self._read(call))
        reporting = asyncio.create_task(self._report())
        try:
            # A dead engine must end the process even while the learner sends nothing.
            waits: set[asyncio.Future[Any]] = {reading, self._fatal}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            return await reading
        finally:
            reading.cancel()
            reporting.cancel()
            call.cancel()

    async def _requests(self) -> AsyncIterator[pb.StreamRequest]:
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        held = {running.lease.group_id: running.lease.nonce for running in self._running.values()}
        held |= {finished.group_id: finished.nonce for finished in self._finished.values()}
        hello.held.extend(pb.HeldLease(group_id=group_id, nonce=nonce) for group_id, nonce in held.items())
        outbox = self._outbox  # of this stream: gRPC may still read this iterator when the next stream has begun
        yield pb.StreamRequest(hello=hello)
        welcome = await self._welcome  # it has the learner's limits on parts and groups
        while True:
            items = [await outbox.get()]
            # What is there by now goes along, without a wait for more.
            while not outbox.empty():
                items.append(outbox.get_nowait())
            for frame in together(self._frames(items, welcome), part_bytes=welcome.part_bytes):
                yield frame

    def _frames(
        self, items: Sequence[pb.StreamRequest | FinishedGroup], welcome: pb.Welcome
    ) -> Iterator[pb.StreamRequest]:
        for item in items:
            if isinstance(item, pb.StreamRequest):
                yield item
                continue
            for frame in item.frames(welcome):
                if frame.HasField("lease_return"):  # too large for this learner: no ack will follow
                    logger.error("returning %s: %s", item.group_id, frame.lease_return.reason)
                    self._finished.pop(item.group_id, None)
                yield frame

    async def _read(self, call: AsyncIterable[pb.StreamResponse]) -> str | None:
        is_ours = False
        async for response in call:
            match response.WhichOneof("frame"):
                case "credit":
                    for lease in response.credit.leases:
                        self._start(codec.lease_from_proto(lease))
                case "acks":
                    for ack in response.acks.acks:
                        self._acknowledged(ack)
                    for lease in response.acks.leases:
                        self._start(codec.lease_from_proto(lease))
                case "goodbye" if is_ours:
                    return response.goodbye.reason or "finished"
                case "goodbye":
                    logger.warning("ignoring a goodbye from a learner of another run; looking for this run's")
                    return None
                case "welcome":
                    # A learner of another run may have the address now; only this run's goodbye ends the worker.
                    is_ours = response.welcome.run_id == self._hello.run_id
                    logger.info("joined run %s at version %d", self._hello.run_id, response.welcome.policy_version)
                    if not self._welcome.done():
                        self._welcome.set_result(response.welcome)
                case _:
                    logger.warning("ignoring a frame from the learner of a kind that this version cannot read")
        return None

    def _start(self, lease: Lease) -> None:
        # A lease that is granted again after a broken stream: send what is finished, or continue under its new nonce.
        if (finished := self._finished.get(lease.group_id)) is not None:
            self._outbox.put_nowait(finished)
        elif (running := self._running.get(lease.group_id)) is not None:
            running.lease = replace(running.lease, nonce=lease.nonce)
        else:
            running = _Running(lease, Stillness(lease.limit_seconds))
            self._running[lease.group_id] = running
            running.task = asyncio.create_task(self._do(running))

    async def _do(self, running: _Running) -> None:
        group_id = running.lease.group_id
        try:
            await self._accepting.wait()
            group = await self._work(running.lease)
            data = codec.group_to_bytes(group)
        except EngineDied as error:
            self._end(error)
        except asyncio.CancelledError:
            if not running.stuck:  # cancelled because the session ends, not by _watch
                raise
            self._return_lease(running, running.stuck)
        except Exception as error:  # a failing task costs its lease, never the worker
            unknown = not isinstance(error, RlserveError | TimeoutError)
            drop = error.reason if isinstance(error, TaskRefused) else ""
            reason = described(error, self._progress_of(group_id).stage)
            self._return_lease(running, reason, drop=drop, trace=unknown)
        else:
            # The nonce of now: the lease may have been granted again, under another one, during the work.
            self._finished[group_id] = finished = FinishedGroup(group_id, running.lease.nonce, data)
            self._outbox.put_nowait(finished)
        finally:
            self._running.pop(group_id, None)

    def _end(self, error: EngineDied) -> None:
        if not self._fatal.done():
            self._fatal.set_exception(error)

    def _return_lease(self, running: _Running, reason: str, *, drop: str = "", trace: bool = False) -> None:
        logger.warning("returning %s: %s", running.lease.group_id, reason, exc_info=trace)
        self._outbox.put_nowait(lease_return(running.lease.group_id, running.lease.nonce, reason, drop))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for running in list(self._running.values()):
                progress = self._progress_of(running.lease.group_id)
                # While paused a lease may wait without limit: _report tells the learner why.
                if self.paused or running.stuck or running.task is None or not running.still.look(progress):
                    continue
                running.stuck = (
                    f"DeadlineExceeded: stood still for {running.still.seconds:.0f} s (learner.lease_seconds) at "
                    f"{progress.stage or 'its start'}, after {progress.tokens} tokens"
                )
                running.task.cancel()

    async def _report(self) -> None:
        for running in self._running.values():
            running.reported = WorkProgress()  # the learner of a new stream has no report yet
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            moved = []
            for group_id, running in self._running.items():
                progress = self._progress_of(group_id)
                if self.paused and not progress.stage:
                    progress = replace(progress, stage="a worker that is paused")
                if progress != running.reported:
                    running.reported = progress
                    moved.append(
                        pb.LeaseProgress(
                            group_id=group_id,
                            nonce=running.lease.nonce,
                            tokens=progress.tokens,
                            steps=progress.steps,
                            stage=wire_text(progress.stage[:256]),
                        )
                    )
            if moved:
                self._outbox.put_nowait(pb.StreamRequest(progress=pb.Progress(leases=moved)))

    def _acknowledged(self, ack: pb.Ack) -> None:
        # Also when rejected: the same group would be rejected again.
        self._finished.pop(ack.group_id, None)
        status = pb.Ack.Status.Name(ack.status).removeprefix("STATUS_").lower()
        self.acks[status] += 1
        self._breaches = 0  # the learner accepts frames of this worker after all
        if ack.status == pb.Ack.STATUS_REJECTED:
            self.acks[f"rejected/{ack.reason}"] += 1
            logger.error("the learner rejected %s: %s", ack.group_id, ack.message)
