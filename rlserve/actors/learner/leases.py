"""Who works on which group: a state machine without threads, sockets or a clock of its own.

A lease is drawn, held by one worker, and settled when its group is in. Until then it never disappears: one that
is returned, expires, or whose worker leaves goes first in line, under the same group id and seed, to another
worker if there is one. Leases are the credits: new ones are drawn only while ``outstanding + queued`` is below
the bound. Leases of an evaluation come before all others and are outside the bound.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from rlserve.records import Purpose
from rlserve.records.lease import Lease

GRACE_SECONDS = 2.0
MAX_ATTEMPTS = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A lease that was taken from its worker."""

    lease: Lease
    worker_id: str
    abandoned: bool
    """True when it failed too often: it is settled, and nobody works on it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeases:
    """What one worker holds."""

    worker_id: str
    connected: bool
    capacity: int
    held: int
    oldest_seconds: float
    """Age of its oldest lease; 0 when it holds none."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry:
    lease: Lease
    order: int
    holder: str = ""
    since: float = 0.0
    deadline: float = math.inf
    not_before: float = -math.inf
    attempts: int = 0
    avoid: str = ""
    holders: set[str] = field(default_factory=set)

    @property
    def rank(self) -> tuple[bool, int]:
        return self.lease.purpose is not Purpose.EVALUATE, self.order


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    capacity: int
    left_at: float | None = None
    served: int = 0
    held: dict[str, _Entry] = field(default_factory=dict)


class LeaseBook:
    """All leases that are not settled, and the workers that may hold them. Not thread-safe."""

    def __init__(
        self,
        *,
        draw: Callable[[], Lease],
        max_outstanding: int,
        clock: Callable[[], float],
        grace_seconds: float = GRACE_SECONDS,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """``draw`` gives the next new training lease; ``clock`` seconds that never go back."""
        self._draw = draw
        self._max_outstanding = max_outstanding
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._max_attempts = max_attempts
        self._entries: dict[str, _Entry] = {}
        # A heap. What is settled or held again meanwhile stays in it until it is met.
        self._line: list[tuple[tuple[bool, int], str]] = []
        self._in_line: set[str] = set()
        self._workers: dict[str, _Worker] = {}
        self._orders = 0
        self._grants = 0
        self._outstanding = 0
        self._drawing = True

    @property
    def outstanding(self) -> int:
        """Training leases that are not settled, held or waiting."""
        return self._outstanding

    def stop_drawing(self) -> None:
        """Open no new training lease and let those in line wait for ever; what is held may come in."""
        self._drawing = False

    def find(self, group_id: str) -> Lease | None:
        """The unsettled lease of a group."""
        entry = self._entries.get(group_id)
        return entry.lease if entry else None

    def unsettled(self, environment: str) -> list[Lease]:
        """Training leases of an environment, held or waiting."""
        leases = [entry.lease for entry in self._entries.values()]
        return [lease for lease in leases if lease.environment == environment and lease.purpose is Purpose.TRAIN]

    def may_deliver(self, group_id: str, worker_id: str) -> bool:
        """Whether the worker holds the lease or once did: a late result is as good as a timely one."""
        entry = self._entries.get(group_id)
        return entry is not None and worker_id in entry.holders

    def workers(self) -> list[WorkerLeases]:
        """Workers that are connected, or left so recently that they keep their leases; sorted by name."""
        now = self._clock()
        return [
            WorkerLeases(
                worker_id=worker_id,
                connected=worker.left_at is None,
                capacity=worker.capacity,
                held=len(worker.held),
                oldest_seconds=max((now - entry.since for entry in worker.held.values()), default=0.0),
            )
            for worker_id, worker in sorted(self._workers.items())
        ]

    def add(self, leases: Iterable[Lease]) -> None:
        """Put leases in line that are not drawn: those of an evaluation, or left over from an earlier process."""
        for lease in leases:
            if lease.group_id not in self._entries:
                self._wait(self._open(lease))

    def join(self, worker_id: str, *, capacity: int, held: Iterable[str] = ()) -> frozenset[str]:
        """A worker is connected (again) and says what it works on; returns what of that it keeps.

        What the book thought it held and it does not name goes back in line: the lease was lost on the way.
        """
        worker = self._workers.setdefault(worker_id, _Worker(capacity=capacity))
        worker.capacity, worker.left_at = capacity, None
        named = [self._entries[group_id] for group_id in dict.fromkeys(held) if group_id in self._entries]
        for entry in [e for e in worker.held.values() if e not in named]:
            self._release(entry)
        for entry in named:
            entry.holders.add(worker_id)
            if not entry.holder:
                self._hold(entry, worker_id)
        return frozenset(worker.held)

    def leave(self, worker_id: str) -> None:
        """The worker's stream ended; after the grace its leases go to others, see :meth:`expire`."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.left_at is None:
            worker.left_at = self._clock()

    def grant(self, *, queued: int, ready: Collection[str] | None = None) -> dict[str, list[Lease]]:
        """Hand out what may be handed out, by worker; the one that holds least comes first.

        ``queued`` groups wait for training; ``ready`` are the workers that can be written to (None: all).
        """
        granted: dict[str, list[Lease]] = {}
        passed_over = []
        while free := self._free(ready):
            entry = self._next(queued)
            if entry is None:
                break
            worker_id = self._choose(entry, free)
            if worker_id is None:
                passed_over.append(entry)
                continue
            self._hold(entry, worker_id)
            granted.setdefault(worker_id, []).append(entry.lease)
        for entry in passed_over:
            self._wait(entry)
        return granted

    def complete(self, group_id: str) -> bool:
        """The group is in: the lease is settled. False when it was already."""
        entry = self._entries.pop(group_id, None)
        if entry is None:
            return False
        if entry.holder:
            self._workers[entry.holder].held.pop(group_id)
        self._outstanding -= entry.lease.purpose is Purpose.TRAIN
        return True

    def give_back(self, group_id: str, worker_id: str, *, failed: bool = True, final: bool = False) -> Release | None:
        """The holder will not finish the lease. None when the worker does not hold it (any more).

        A lease that ``failed`` pauses before it is tried again, each time longer, and is abandoned at last; one
        whose failure is ``final`` is abandoned at once.
        """
        entry = self._entries.get(group_id)
        if entry is None or entry.holder != worker_id:
            return None
        entry.attempts = self._max_attempts if final else entry.attempts + failed
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** max(0, entry.attempts - 1))
        entry.not_before = self._clock() + pause
        return self._take_away(entry)

    def expire(self) -> list[Release]:
        """Take back the leases that ran out and those of workers that stayed away."""
        now = self._clock()
        gone = [w for w in self._workers.values() if w.left_at is not None and now - w.left_at >= self._grace_seconds]
        releases = [self._take_away(entry) for worker in gone for entry in list(worker.held.values())]
        self._workers = {name: worker for name, worker in self._workers.items() if worker not in gone}
        for entry in [e for w in self._workers.values() for e in w.held.values() if e.deadline <= now]:
            entry.attempts += 1
            releases.append(self._take_away(entry))
        return releases

    def _next(self, queued: int) -> _Entry | None:
        """The first lease in line, or a new one if the bound allows it."""
        while self._line:
            _, group_id = heapq.heappop(self._line)
            self._in_line.remove(group_id)
            entry = self._entries.get(group_id)
            if entry is not None and not entry.holder and self._wanted(entry.lease):
                return entry
        may_draw = self._drawing and self._outstanding + queued < self._max_outstanding
        return self._open(self._draw()) if may_draw else None

    def _wanted(self, lease: Lease) -> bool:
        return self._drawing or lease.purpose is not Purpose.TRAIN

    def _free(self, ready: Collection[str] | None) -> list[str]:
        return [
            worker_id
            for worker_id, worker in self._workers.items()
            if worker.left_at is None and len(worker.held) < worker.capacity and (ready is None or worker_id in ready)
        ]

    def _choose(self, entry: _Entry, free: Collection[str]) -> str | None:
        """The free worker that holds least; not the one that just failed, unless it is the only one."""
        if entry.not_before > self._clock():
            return None
        others = [worker_id for worker_id in free if worker_id != entry.avoid]
        if not others and any(w.left_at is None and name != entry.avoid for name, w in self._workers.items()):
            return None
        chosen = others or free
        return min(chosen, key=lambda name: (len(self._workers[name].held), self._workers[name].served), default=None)

    def _open(self, lease: Lease) -> _Entry:
        entry = _Entry(lease=lease, order=self._orders, since=self._clock())
        self._orders += 1
        self._entries[lease.group_id] = entry
        self._outstanding += lease.purpose is Purpose.TRAIN
        return entry

    def _hold(self, entry: _Entry, worker_id: str) -> None:
        entry.holder, entry.since = worker_id, self._clock()
        # The worker's own limit ends first; the grace is for its word to arrive.
        limit = entry.lease.limit_seconds
        entry.deadline = entry.since + limit + self._grace_seconds if limit else math.inf
        entry.holders.add(worker_id)
        self._grants += 1
        self._workers[worker_id].served = self._grants
        self._workers[worker_id].held[entry.lease.group_id] = entry

    def _wait(self, entry: _Entry) -> None:
        group_id = entry.lease.group_id
        if group_id not in self._in_line:
            self._in_line.add(group_id)
            heapq.heappush(self._line, (entry.rank, group_id))

    def _release(self, entry: _Entry) -> None:
        self._workers[entry.holder].held.pop(entry.lease.group_id)
        entry.holder, entry.deadline, entry.since = "", math.inf, self._clock()
        self._wait(entry)

    def _take_away(self, entry: _Entry) -> Release:
        worker_id, abandoned = entry.holder, entry.attempts >= self._max_attempts
        entry.avoid = worker_id
        if abandoned:
            self.complete(entry.lease.group_id)
        else:
            self._release(entry)
        return Release(lease=entry.lease, worker_id=worker_id, abandoned=abandoned)
