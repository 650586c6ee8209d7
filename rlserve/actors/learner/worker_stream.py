"""One worker's stream at the learner: what waits to be sent to it, and the group that it is sending.

``Outbox.next``   waits for: a frame to send. unblocked by: a credit, an ack, goodbye, the end.
``Incoming.take`` waits for: room in the budgets of bytes. unblocked by: groups that were taken in.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from rlserve.actors.learner.byte_budget import ByteBudget
from rlserve.errors import DeadlineExceeded, InvalidRequest
from rlserve.v1 import rollout_stream_service_pb2 as pb

STREAM_BYTES = 2 * 2**20
"""Groups of one part that one stream may have in the learner at once, in bytes."""
GROUPS_AHEAD = 64
"""Groups of one stream that are not acknowledged; a worker that does not read its acks is read no further."""
GROUP_SECONDS, GROUP_BYTES_A_SECOND = 30.0, 100_000
"""A group of several parts must be whole after so long, and as long as its bytes take at this pace."""


class Outbox:
    """Frames for one worker, acks put together."""

    def __init__(self) -> None:
        self._acks: list[pb.Ack] = []
        self._frames: deque[pb.StreamResponse] = deque()
        self._some = asyncio.Event()
        self._closed = False
        self._ahead = asyncio.Semaphore(GROUPS_AHEAD)

    async def expect_ack(self) -> None:
        """Wait until one more group may be on its way."""
        await self._ahead.acquire()

    def ack(self, ack: pb.Ack) -> None:
        """Send an ack that was expected."""
        self._acks.append(ack)
        self._some.set()

    def send(self, frame: pb.StreamResponse) -> None:
        """Send a frame behind those that wait."""
        self._frames.append(frame)
        self._some.set()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._some.set()

    async def next(self) -> pb.StreamResponse | None:
        """The next frame; None when all was sent and no more comes."""
        while True:
            if self._acks:
                acks, self._acks = self._acks, []
                for _ in acks:
                    self._ahead.release()
                return pb.StreamResponse(acks=pb.Acks(acks=acks))
            if self._frames:
                return self._frames.popleft()
            if self._closed:
                return None
            self._some.clear()
            await self._some.wait()


@dataclass(slots=True)
class _Group:
    """A group of which parts have come."""

    group_id: str
    nonce: str
    total: int
    data: bytearray
    deadline: float


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes of groups in the learner, over all streams: apart for groups of one part, which large ones never delay."""

    small: ByteBudget
    large: ByteBudget


class Incoming:
    """Puts the parts of one stream together, within budgets."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._own = ByteBudget(STREAM_BYTES)
        self._group: _Group | None = None

    @property
    def seconds_left(self) -> float | None:
        """For the rest of the group that has begun; None when none has."""
        return None if self._group is None else max(0.0, self._group.deadline - time.monotonic())

    async def take(self, part: pb.GroupPart, data: bytes) -> bytes | None:
        """The whole group when this part, which holds ``data``, was its last. Its bytes stay taken until ``done``.

        Raises InvalidRequest when the part does not go on where the last one ended.
        """
        if self._group is None:
            if len(data) == part.total_bytes:
                await self._own.take(part.total_bytes)
                try:
                    await self._budgets.small.take(part.total_bytes)
                except asyncio.CancelledError:
                    self._own.give(part.total_bytes)
                    raise
                return data
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
        """A group of ``size`` bytes, sent in several ``parts`` or in one, is out of the way."""
        if parts:
            self._budgets.large.give(size)
        else:
            self._own.give(size)
            self._budgets.small.give(size)

    def too_slow(self) -> DeadlineExceeded:
        """For the group that was not whole in time."""
        assert self._group is not None
        return DeadlineExceeded(
            f"group {self._group.group_id!r}: {len(self._group.data)} of {self._group.total} bytes came in time; send "
            "the parts of a group one after the other"
        )

    def close(self) -> None:
        """The stream is over; what had begun of a group is thrown away."""
        if self._group is not None:
            self._budgets.large.give(self._group.total)
            self._group = None
