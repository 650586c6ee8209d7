"""One broadcast to all workers that ask for a version at the same time: over NCCL between GPUs, else over gloo.

For workers on other hosts of one fast network. The learner's uplink carries a version about once, however many they
are, and its training thread takes no part. A *round* brings one version to those that asked for it in time:

1. The first request opens the round. It closes after GATHER_SECONDS, or sooner: once all that asked for the version
   before have asked for this one.
2. The group of the last round is used again when it has the same members, in the same processes. Otherwise it is
   killed, and each member gets a place in a new one.
3. Pieces go through the group; the digest of each goes to every member through its Fetch call, which is authenticated
   where the group is not.

A worker that comes late takes another carrier for this version, and is waited for in the next round. When a member
dies or stands still, the group breaks for all within PROGRESS_SECONDS: those that live ask again, once, and are a new
group; the other one is waited for no longer than GATHER_SECONDS.

On the wire: the worker gives the best backend and the group it has in ``carriers``; the header gives its place in
``locator``; a chunk is the digest of a piece, without data.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlserve.errors import ConfigError, WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.carriers.base import Carrier, Interrupted, NextChunk, Offer
from rlserve.weight_sync.carriers.broadcast_rank import (
    GLOO,
    NCCL,
    BroadcastRank,
    Place,
    listening,
    num_pieces,
    start_fork_server,
)
from rlserve.weight_sync.manifest import check
from rlserve.weight_sync.mapped_file import MappedFile
from rlserve.weight_sync.publisher import Published, Publisher
from rlserve.weight_sync.staging import Staging

logger = logging.getLogger(__name__)

NAME = "collective"
GATHER_SECONDS = 1.0
"""Workers ask within milliseconds of an announcement, those that stage another version still when they are done."""
ATTEMPTS = 2
"""Rounds of a version: one more when a member broke the first."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that asks."""

    backend: str
    """The best one that it has."""
    group: str = ""
    """In which it has a rank. A worker that was started again has none."""

    @classmethod
    def of(cls, request: pb.FetchRequest) -> "Member | None":
        """None for a worker that does not take part."""
        backend, _, group = request.carriers.get(NAME, "").partition(" ")
        return cls(backend, group) if backend in (GLOO, NCCL) else None


@dataclass(eq=False)
class Round:
    """One version on its way to the workers that asked for it in time."""

    policy: PolicyVersion
    attempt: int
    members: dict[str, "Member"] = field(default_factory=dict)
    places: dict[str, Place] | None = None
    """Of the members, once the round is closed and its group can be joined."""
    digests: list[str] = field(default_factory=list)
    """Of the pieces that were sent."""
    problem: str = ""
    """Why it broke."""
    ended: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def has_place(self, worker: str) -> bool:
        """Whether the worker is in this round's group."""
        return self.places is not None and worker in self.places

    async def until(self, happened: Callable[[], bool]) -> None:
        """Returns once this is so, or the round has ended."""
        async with self._news:
            await self._news.wait_for(lambda: happened() or self.ended)

    async def notify(self) -> None:
        """Something changed."""
        async with self._news:
            self._news.notify_all()


class CollectiveSender:
    """Rank 0 of the groups, one round at a time."""

    def __init__(self, publisher: Publisher, address: str) -> None:
        """``address``: of this host, where workers meet. Raises ConfigError when it is not."""
        check_address(address)
        start_fork_server()
        self._address = address
        self._round: Round | None = None
        self._expected: set[str] = set()
        """Workers that asked for the last version, in time or late."""
        self._rank: BroadcastRank | None = None
        self._group: dict[str, Place] = {}
        self._busy = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        publisher.at_close.callback(self._give_up_group)

    async def offer(self, published: Published, request: pb.FetchRequest) -> Offer | None:
        member = Member.of(request)
        if member is None:
            return None
        turn = self._round_of(published)
        if turn.has_place(request.worker_id):  # it saw its group break before this rank did
            await turn.until(lambda: False)
            turn = self._round_of(published)
        if turn.places is not None or turn.ended:  # too late for this one
            self._expected.add(request.worker_id)
            return None
        turn.members[request.worker_id] = member
        await turn.notify()
        try:
            await turn.until(lambda: turn.places is not None)
        except asyncio.CancelledError:
            if turn.places is None:  # the worker is gone before the round has closed
                turn.members.pop(request.worker_id, None)
            raise
        if turn.places is None or not turn.has_place(request.worker_id):
            return None
        header = pb.FetchHeader(
            version=published.policy.version,
            encoding=pb.ENCODING_FULL,
            total_bytes=published.policy.total_bytes,
            locator=turn.places[request.worker_id].to_wire(),
        )
        return Offer(header, _chunks(turn))

    def _round_of(self, published: Published) -> Round:
        last = self._round
        same = last is not None and last.policy.digest == published.policy.digest
        if last is not None and same and not (last.problem and last.attempt < ATTEMPTS):
            return last
        self._round = Round(published.policy, attempt=last.attempt + 1 if last is not None and same else 1)
        task = asyncio.create_task(self._run(self._round, published))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return self._round

    async def _run(self, turn: Round, published: Published) -> None:
        try:
            async with self._busy:
                await self._gather(turn)
                await self._send(turn, published)
        except (Interrupted, OSError) as error:
            turn.problem = str(error)
            logger.warning(
                "version %d: its broadcast to %s broke (%s)", turn.policy.version, ", ".join(turn.members), error
            )
            await asyncio.to_thread(self._give_up_group)
        finally:
            turn.ended = True
            await turn.notify()

    async def _gather(self, turn: Round) -> None:
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                # In the first round nothing is known of who may come.
                await turn.until(lambda: bool(self._expected) and turn.members.keys() >= self._expected)
        except TimeoutError:
            if missing := ", ".join(sorted(self._expected - turn.members.keys())):
                logger.info("version %d is broadcast without %s, which did not ask", turn.policy.version, missing)
        self._expected = set(turn.members)

    async def _send(self, turn: Round, published: Published) -> None:
        members = dict(turn.members)
        if not members:
            return
        rank = self._rank
        same = rank is not None and rank.alive and self._group.keys() == members.keys()
        same = same and rank is not None and {member.group for member in members.values()} == {rank.place.group}
        if rank is None or not same:
            rank = await self._new_group(members)
        turn.places = self._group
        await turn.notify()
        if not same:
            await asyncio.to_thread(rank.joined)
        rank.begin(published.path, turn.policy.total_bytes)
        for _ in range(num_pieces(turn.policy.total_bytes)):
            turn.digests.append(await asyncio.to_thread(rank.digest))
            await turn.notify()

    async def _new_group(self, members: dict[str, Member]) -> BroadcastRank:
        """This rank of a group in which the members have their places, instead of the last one."""
        await asyncio.to_thread(self._give_up_group)
        backend = NCCL if best_backend() == NCCL and {m.backend for m in members.values()} == {NCCL} else GLOO
        place = Place(uuid.uuid4().hex, backend, self._address, port=0, rank=0, size=len(members) + 1)
        rank = self._rank = await asyncio.to_thread(BroadcastRank, place)
        place = replace(place, port=await asyncio.to_thread(rank.port))
        self._group = {name: replace(place, rank=number) for number, name in enumerate(sorted(members), start=1)}
        logger.info("weights are broadcast over %s to %s", backend, ", ".join(self._group))
        return rank

    def _give_up_group(self) -> None:
        rank, self._rank, self._group = self._rank, None, {}
        if rank is not None:
            rank.close()


class CollectiveReceiver:
    """A member of the groups in which its worker gets a place."""

    def __init__(self, staging: Staging, address: str) -> None:
        """``address``: the only one at which a group is joined."""
        self._staging = staging
        self._address = address
        self._rank: BroadcastRank | None = None
        staging.at_close.callback(self._leave)

    def ask(self, request: pb.FetchRequest, held: int | None) -> None:
        group = self._rank.place.group if self._rank is not None and self._rank.alive else ""
        request.carriers[NAME] = f"{best_backend()} {group}"

    async def take(self, policy: PolicyVersion, header: pb.FetchHeader, next_chunk: NextChunk) -> Path:
        place = Place.from_wire(header.locator)
        if place.address != self._address:
            raise WeightsMismatch(
                f"version {policy.version}: a group at {place.address[:80]!r} is offered, and sync.broadcast_address "
                f"is {self._address!r} here"
            )
        file = await asyncio.to_thread(self._staging.create, policy)
        try:
            await self._receive(place, policy, file, next_chunk)
            await asyncio.to_thread(check, policy, file.flat)
        except BaseException:
            file.discard()
            self._leave()  # a part of the version may be on its way still
            raise
        return self._staging.keep(policy, file)

    async def _receive(self, place: Place, policy: PolicyVersion, file: MappedFile, next_chunk: NextChunk) -> None:
        rank = self._rank
        if rank is None or rank.place != place or not rank.alive:
            await asyncio.to_thread(self._leave)
            rank = self._rank = await asyncio.to_thread(BroadcastRank, place)
            await asyncio.to_thread(rank.joined)
        rank.begin(file.path, file.size)
        for index in range(num_pieces(policy.total_bytes)):
            try:
                chunk = await next_chunk()
            except WeightsMismatch as error:  # the stream ended early, as the group broke
                raise Interrupted(f"version {policy.version}: the broadcast broke off ({error})") from error
            if chunk.index != index or chunk.digest != await asyncio.to_thread(rank.digest):
                raise WeightsMismatch(f"version {policy.version}: piece {index} of the broadcast is not what was sent")

    def _leave(self) -> None:
        rank, self._rank = self._rank, None
        if rank is not None:
            rank.close()


def best_backend() -> str:
    """NCCL where this process has a GPU, else gloo."""
    import torch

    return NCCL if torch.cuda.is_available() else GLOO


def check_address(address: str) -> None:
    """Raises ConfigError unless this host can listen there."""
    try:
        listening(address).close()
    except OSError as error:
        raise ConfigError(
            f"sync.broadcast_address: the learner cannot listen at {address!r} ({error}); give an address of its host "
            "on the workers' network"
        ) from error


def collective(address: str) -> Carrier:
    """The carrier whose workers meet at this address of the learner's host."""
    return Carrier(
        NAME,
        lambda publisher, _: CollectiveSender(publisher, address),
        lambda staging: CollectiveReceiver(staging, address),
    )


async def _chunks(turn: Round) -> AsyncIterator[pb.Chunk]:
    """Ends early when the round breaks."""
    count = num_pieces(turn.policy.total_bytes)
    for index in range(count):
        await turn.until(lambda index=index: len(turn.digests) > index)  # type: ignore[misc]
        if len(turn.digests) <= index:
            return
        yield pb.Chunk(index=index, digest=turn.digests[index], last=index + 1 == count)
