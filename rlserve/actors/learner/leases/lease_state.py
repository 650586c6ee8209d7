"""The records of the lease table: an open lease, a worker, and what the table reports of both."""

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlserve.actors.learner.leases.nonces import Nonces
from rlserve.records import Purpose
from rlserve.records.lease import Lease

STILL_SECONDS = 5.0
"""Two intervals of its reports: a worker none of whose leases moved for longer is described as standing still."""


class Source(Protocol):
    """Where the lease table gets new training leases."""

    @property
    def nonces(self) -> Nonces:
        """Of every lease of the run."""
        ...

    @property
    def open_leases(self) -> Sequence[Lease]:
        """Leases that an earlier process drew and did not complete, oldest first."""
        ...

    def draw(self) -> Lease:
        """The next new lease."""
        ...

    def save(self) -> None:
        """Make the draws so far known to a later process."""
        ...

    def complete(self, group_id: str) -> None:
        """The store has the group: a later process need not lease it again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A lease that was returned or expired."""

    lease: Lease
    worker_id: str
    abandoned: bool
    """It failed too often: it is closed, and is not granted again."""
    stage: str = ""
    """Of the work, as its last progress report named it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeases:
    """What one worker holds."""

    worker_id: str
    connected: bool
    capacity: int
    held: int
    oldest_seconds: float
    """Age of its oldest lease; 0 when it holds none."""
    still_seconds: float
    """Since any of its leases progressed; 0 when it holds none."""
    stage: str
    """Of the work on its oldest lease, as the worker named it."""
    returned_in_row: int
    """Leases that it returned or let expire since it finished one."""

    @property
    def text(self) -> str:
        """For people."""
        state = "" if self.connected else " (gone)"
        since = f", the oldest for {self.oldest_seconds:.1f} s" if self.held else ""
        stage = f" at {self.stage}" if self.stage else ""
        still = f", none moved for {self.still_seconds:.0f} s" if self.still_seconds >= STILL_SECONDS else ""
        return f"{self.worker_id}{state} holds {self.held} leases{since}{stage}{still}"


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One open lease."""

    lease: Lease
    order: int
    """Number of the lease, in order of opening."""
    holder: str = ""
    """Worker; empty while it is queued."""
    since: float = 0.0
    """When it was granted, or queued."""
    deadline: float = math.inf
    """When it expires unless it progresses before."""
    not_before: float = -math.inf
    """When it may be granted again, after a failure."""
    attempts: int = 0
    avoid: str = ""
    """Worker that failed on it last."""
    nonce: str = ""
    """Of the present grant; empty while it is queued."""
    tokens: int = 0
    steps: int = 0
    """As the holder reported last."""
    moved_at: float = 0.0
    """When it was granted or progressed last."""
    stage: str = ""
    """Of the work, as the holder named it last."""

    @property
    def rank(self) -> tuple[bool, int]:
        """Place in the queue: evaluations first, then in order of opening."""
        return self.lease.purpose is not Purpose.EVALUATE, self.order


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """One worker that is connected, or left within the grace."""

    capacity: int
    left_at: float | None = None
    """When its stream ended; None while it is connected."""
    served: int = 0
    """Number of its last grant, over all workers."""
    returned_in_row: int = 0
    held: dict[str, Entry] = field(default_factory=dict)

    def leases(self, worker_id: str, now: float) -> WorkerLeases:
        """What it holds at ``now``."""
        held = self.held.values()
        oldest = min(held, key=lambda entry: entry.since, default=None)
        return WorkerLeases(
            worker_id=worker_id,
            connected=self.left_at is None,
            capacity=self.capacity,
            held=len(held),
            oldest_seconds=now - oldest.since if oldest else 0.0,
            still_seconds=min((now - entry.moved_at for entry in held), default=0.0),
            stage=oldest.stage if oldest else "",
            returned_in_row=self.returned_in_row,
        )


_Place = tuple[int, int, str]
"""(leases held, number of the last grant, name): the smallest gets the next lease."""


class FreeWorkers:
    """Connected workers with room for a lease, those that hold least first.

    Example: a holds 1 lease and b 0. ``pop`` gives b; ``pop`` with ``avoid`` b gives a, and b only when it is alone.
    """

    def __init__(self, workers: Mapping[str, Worker], ready: Collection[str] | None) -> None:
        """Those among ``ready`` (None: among all)."""
        self._workers = workers
        self._heap: list[_Place] = []
        for worker_id, worker in workers.items():
            if worker.left_at is None and (ready is None or worker_id in ready):
                self.push(worker_id)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, worker_id: str) -> None:
        """Add a worker, if it has room."""
        worker = self._workers[worker_id]
        if len(worker.held) < worker.capacity:
            heapq.heappush(self._heap, (len(worker.held), worker.served, worker_id))

    def pop(self, able: Collection[str] | None, *, avoid: str) -> str | None:
        """Take out the first that is ``able`` (None: all are), not ``avoid`` unless no other worker is able."""
        skipped, failed, chosen = [], None, None
        while self._heap and chosen is None:
            place = heapq.heappop(self._heap)
            if able is not None and place[2] not in able:
                skipped.append(place)
            elif place[2] == avoid:
                failed = place
            else:
                chosen = place
        # A lease waits even for a busy worker rather than go back to the one that failed on it.
        if chosen is None and failed is not None and not self._has_another(avoid, able):
            chosen, failed = failed, None
        # The chosen one stays out: the caller pushes it again once it holds the lease, at its new place.
        for place in [*skipped, *([failed] if failed else [])]:
            heapq.heappush(self._heap, place)
        return chosen[2] if chosen else None

    def _has_another(self, worker_id: str, able: Collection[str] | None) -> bool:
        """Whether another connected worker is able, now or once it has room."""
        return any(
            worker.left_at is None and name != worker_id and (able is None or name in able)
            for name, worker in self._workers.items()
        )
