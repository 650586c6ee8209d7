"""One worker's stream at the learner: the frames to send to it, and the group that it is sending.

``Outbox.next``   waits for: a frame to send. unblocked by: a lease, an ack, goodbye, the end.
``Incoming.take`` waits for: room in the budgets of bytes. unblocked by: decisions on other groups.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.actors.learner.ingest.admission import AckStatus, Decision
from rlserve.actors.learner.ingest.byte_budget import ByteBudget
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded
from rlserve.v1 import rollout_stream_service_pb2 as pb

STREAM_BYTES = 2 * 2**20
"""Bytes of undecided groups of one part, for one stream: one worker cannot fill the budget of all."""
GROUPS_AHEAD = 64
"""Groups of one stream without an ack; a worker that does not read its acks is read no further."""
GROUP_SECONDS, GROUP_BYTES_A_SECOND = 30.0, 100_000
"""A group of several parts holds a large budget until it is whole: it gets so long, plus its bytes at a pace that any
link exceeds."""
MAX_REJECTED = 64
"""A stream is ended when so many of its groups in a row were rejected: its worker is broken."""
STATUS = {
    AckStatus.ACCEPTED: pb.Ack.STATUS_ACCEPTED,
    AckStatus.DUPLICATE: pb.Ack.STATUS_DUPLICATE,
    AckStatus.STALE: pb.Ack.STATUS_STALE,
    AckStatus.REJECTED: pb.Ack.STATUS_REJECTED,
}


class Outbox:
    """Frames for one worker; all acks and leases that wait go in one frame."""

    def __init__(self) -> None:
        self._acks: list[pb.Ack] = []
        self._leases: list[pb.Lease] = []
        self._frames: deque[pb.StreamResponse] = deque()
        self._some = asyncio.Event()
        self._closed = False
        self._ahead = ByteBudget(GROUPS_AHEAD)

    async def expect_ack(self) -> None:
        """Wait until one more group may be undecided."""
        await self._ahead.take(1)

    def ack(self, ack: pb.Ack) -> None:
        """Send an ack; ``expect_ack`` was called for it."""
        self._acks.append(ack)
        self._some.set()

    def lease(self, leases: Sequence[pb.Lease]) -> None:
        """Send leases."""
        self._leases.extend(leases)
        self._some.set()

    def send(self, frame: pb.StreamResponse) -> None:
        """Queue a frame."""
        self._frames.append(frame)
        self._some.set()

    def close(self) -> None:
        """End after the frames that wait."""
        self._closed = True
        self._some.set()

    async def next(self) -> pb.StreamResponse | None:
        """The next frame; None at the end."""
        while True:
            if self._acks or self._leases:
                acks, self._acks = self._acks, []
                leases, self._leases = self._leases, []
                # Now that gRPC asks for the frame, not when the ack was queued: a worker that reads no acks gets no
                # more room.
                self._ahead.give(len(acks))
                if acks:
                    return pb.StreamResponse(acks=pb.Acks(acks=acks, leases=leases))
                return pb.StreamResponse(credit=pb.Credit(leases=leases))
            if self._frames:
                return self._frames.popleft()
            if self._closed:
                return None
            # Nothing can be queued between the looks above and this line: there is no await in between.
            self._some.clear()
            await self._some.wait()


@dataclass(slots=True)
class _Group:
    """A group of which some parts arrived."""

    group_id: str
    nonce: str
    total: int
    data: bytearray
    deadline: float


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes of undecided groups, over all streams. Groups of one part have their own: large ones never delay them."""

    small: ByteBudget
    large: ByteBudget


class Incoming:
    """Assembles the groups of one stream from their parts, within budgets."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._own = ByteBudget(STREAM_BYTES)
        self._group: _Group | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline of a group that is not whole; None when there is none."""
        return None if self._group is None else max(0.0, self._group.deadline - time.monotonic())

    async def take(self, part: pb.GroupPart, data: bytes) -> bytes | None:
        """Add a part, which holds ``data``; the whole group when it is the last. Its bytes stay taken until ``done``.

        Raises InvalidRequest when the part belongs to another group than the one before it, which is not whole.
        """
        if self._group is None:
            if len(data) == part.total_bytes:
                # Its own share first: a stream that used it up waits without a hold on the bytes of all.
                await self._own.take(part.total_bytes)
                try:
                    await self._budgets.small.take(part.total_bytes)
                except asyncio.CancelledError:
                    self._own.give(part.total_bytes)
                    raise
                return data
            # The whole group at its first part: taken part by part, streams could fill the budget with halves that all
            # wait for more.
            await self._budgets.large.take(part.total_bytes)
            deadline = time.monotonic() + GROUP_SECONDS + part.total_bytes / GROUP_BYTES_A_SECOND
            self._group = _Group(part.group_id, part.nonce, part.total_bytes, bytearray(), deadline)
        group = self._group
        if (part.group_id, part.nonce, part.total_bytes) != (group.group_id, group.nonce, group.total):
            raise InvalidRequest(f"group.group_id: a part of another group follows one of {group.group_id!r}; end that")
        if len(group.data) + len(data) > group.total:
            raise InvalidRequest(f"group.data: the parts of {group.group_id!r} are more than its {group.total} bytes")
        group.data += data
        if len(group.data) < group.total:
            return None
        self._group = None
        return bytes(group.data)

    def done(self, size: int, *, parts: bool) -> None:
        """There is a decision on a group of ``size`` bytes, which came in several ``parts`` or in one."""
        if parts:
            self._budgets.large.give(size)
        else:
            self._own.give(size)
            self._budgets.small.give(size)

    def too_slow(self) -> DeadlineExceeded:
        """The error for a group that is not whole by its deadline."""
        assert self._group is not None
        return DeadlineExceeded(
            f"group {self._group.group_id!r}: {len(self._group.data)} of {self._group.total} bytes came in time; send "
            "the parts of a group one after the other"
        )

    def close(self) -> None:
        """The stream ended; discard the group that is not whole."""
        if self._group is not None:
            self._budgets.large.give(self._group.total)
            self._group = None


class WorkerStream:
    """One stream of one worker."""

    def __init__(self, worker_id: str, budgets: Budgets) -> None:
        self.worker_id = worker_id
        self.outbox = Outbox()
        self.incoming = Incoming(budgets)
        self.error: Exception | None = None
        """Ends the stream after the frames that wait."""
        self._rejected = 0

    def done(self, size: int, parts: bool, decision: Decision) -> None:
        """There is a decision on a group."""
        self.incoming.done(size, parts=parts)
        self.outbox.ack(_ack(decision))
        self._rejected = self._rejected + 1 if decision.status is AckStatus.REJECTED else 0
        if self._rejected >= MAX_REJECTED:
            self.end(
                LimitExceeded(f"stream: {self._rejected} groups in a row were rejected, the last: {decision.message}")
            )

    def failed(self, size: int, parts: bool, error: Exception) -> None:
        """There is no decision on a group."""
        self.incoming.done(size, parts=parts)
        self.end(error)

    def end(self, error: Exception | None = None) -> None:
        """End the stream after the frames that wait."""
        self.error = self.error or error
        self.outbox.close()


def _ack(decision: Decision) -> pb.Ack:
    return pb.Ack(
        group_id=decision.group_id,
        status=STATUS[decision.status],
        reason=decision.reason,
        message=decision.message,
    )
