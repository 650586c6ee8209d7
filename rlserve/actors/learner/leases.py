"""Who works on which group: a state machine without threads, sockets or a clock of its own.

A lease is drawn, held by one worker, and settled when its group is in. Until then it never disappears: one that
is returned, stands still for too long, or whose worker leaves goes first in line, under the same group id and seed,
to another worker if there is one. Leases are the credits: new ones are drawn only while ``outstanding + queued`` is
below the bound. Leases of an evaluation come before all others and are outside the bound.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from rlserve.actors.learner.lease_state import Entry, Release, Source, Worker, WorkerLeases
from rlserve.records import Purpose
from rlserve.records.lease import REPORT_SECONDS, Lease, LeaseProgress

GRACE_SECONDS = 2.0
MAX_ATTEMPTS = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0


_Place = tuple[int, int, str]
"""(leases held, when it was served last, name): who comes first in line for a lease."""


class LeaseTable:
    """All leases that are not settled, and the workers that may hold them. Not thread-safe."""

    def __init__(
        self,
        *,
        source: Source,
        max_outstanding: int,
        clock: Callable[[], float],
        grace_seconds: float = GRACE_SECONDS,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Starts with the open leases of ``source``; ``clock`` gives seconds that never go back."""
        self._source = source
        self._max_outstanding = max_outstanding
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._max_attempts = max_attempts
        self._entries: dict[str, Entry] = {}
        # A heap. What is settled or held again meanwhile stays in it until it is met.
        self._queue: list[tuple[tuple[bool, int], str]] = []
        self._queued: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._orders = 0
        self._grants = 0
        self._outstanding = 0
        self._drawing = True
        self.add(source.open_leases)

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

    def open_leases(self, environment: str) -> list[Lease]:
        """Training leases of an environment, held or waiting."""
        leases = [entry.lease for entry in self._entries.values()]
        return [lease for lease in leases if lease.environment == environment and lease.purpose is Purpose.TRAIN]

    def workers(self) -> list[WorkerLeases]:
        """Workers that are connected, or left so recently that they keep their leases; sorted by name."""
        now = self._clock()
        return [worker.leases(worker_id, now) for worker_id, worker in sorted(self._workers.items())]

    def add(self, leases: Iterable[Lease]) -> None:
        """Put leases in line that are not drawn: those of an evaluation, or left over from an earlier process."""
        for lease in leases:
            if lease.group_id not in self._entries:
                self._wait(self._open(lease))

    def join(self, worker_id: str, *, capacity: int, held: Mapping[str, str] | None = None) -> frozenset[str]:
        """A worker is connected (again) and says what it works on, as nonces by group; returns what of that it keeps.

        What the book thought it held and it does not prove goes back in line: the lease was lost on the way.
        """
        worker = self._workers.setdefault(worker_id, Worker(capacity=capacity))
        worker.capacity, worker.left_at = capacity, None
        proven = {
            group_id: nonce
            for group_id, nonce in (held or {}).items()
            if group_id in self._entries and self._source.nonces.proves(nonce, group_id, worker_id)
        }
        for entry in [entry for group_id, entry in worker.held.items() if group_id not in proven]:
            self._release(entry)
        for group_id, nonce in proven.items():
            entry = self._entries[group_id]
            if not entry.holder:
                self._hold(entry, worker_id, nonce)
            elif entry.holder == worker_id:
                entry.nonce = nonce
        return frozenset(worker.held)

    def leave(self, worker_id: str) -> None:
        """The worker's stream ended; after the grace its leases go to others, see :meth:`expire`."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.left_at is None:
            worker.left_at = self._clock()

    def grant(
        self, *, queued: int, ready: Collection[str] | None = None, current: Collection[str] | None = None
    ) -> dict[str, list[Lease]]:
        """Hand out what may be handed out, by worker; the one that holds least comes first.

        ``queued`` groups wait for training; ``ready`` are the workers that can be written to (None: all), ``current``
        those that serve the newest version: they alone are given leases of an evaluation (None: all are).
        """
        granted: dict[str, list[Lease]] = {}
        passed_over = []
        free = [self._place(worker_id) for worker_id in self._free(ready)]
        heapq.heapify(free)
        while free:
            entry = self._next(queued)
            if entry is None:
                break
            worker_id = self._choose(entry, free, current if entry.lease.purpose is Purpose.EVALUATE else ready)
            if worker_id is None:
                passed_over.append(entry)
                continue
            self._hold(entry, worker_id, self._source.nonces.make(entry.lease.group_id, worker_id))
            granted.setdefault(worker_id, []).append(replace(entry.lease, nonce=entry.nonce))
            if len(self._workers[worker_id].held) < self._workers[worker_id].capacity:
                heapq.heappush(free, self._place(worker_id))
        for entry in passed_over:
            self._wait(entry)
        self._source.save()  # before anyone learns of the leases: a later process must not draw them again
        return granted

    def complete(self, group_id: str) -> bool:
        """The store has the lease's group: forget the lease. False when it was closed already."""
        entry = self._entries.get(group_id)
        if entry is not None:
            self._close(entry)
        self._source.complete(group_id)
        return entry is not None

    def finished(self, worker_id: str) -> None:
        """The worker has brought a group to its end."""
        if (worker := self._workers.get(worker_id)) is not None:
            worker.returned_in_row = 0

    def progress(self, worker_id: str, report: LeaseProgress) -> bool:
        """The holder says how far it is; True when the lease has moved, which renews it."""
        entry = self._held(report.group_id, worker_id, report.nonce)
        if entry is None:
            return False
        entry.stage = report.stage
        if report.tokens <= entry.tokens and report.steps <= entry.steps:
            return False
        entry.tokens, entry.steps = max(entry.tokens, report.tokens), max(entry.steps, report.steps)
        self._renew(entry)
        return True

    def prolong(self, seconds: float) -> None:
        """Nobody could be heard for so long: no lease stood still meanwhile, and no worker stayed away."""
        for worker in self._workers.values():
            if worker.left_at is not None:
                worker.left_at += seconds
            for entry in worker.held.values():
                entry.deadline += seconds

    def return_lease(
        self, group_id: str, worker_id: str, nonce: str, *, failed: bool = True, final: bool = False
    ) -> Release | None:
        """The holder will not finish the lease. None when the worker does not hold it (any more) by this nonce.

        A lease that ``failed`` pauses before it is tried again, each time longer, and is abandoned at last; one
        whose failure is ``final`` is abandoned at once.
        """
        entry = self._held(group_id, worker_id, nonce)
        if entry is None:
            return None
        entry.attempts = self._max_attempts if final else entry.attempts + failed
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** max(0, entry.attempts - 1))
        entry.not_before = self._clock() + pause
        return self._take_away(entry)

    def expire(self) -> list[Release]:
        """Take back the leases that stood still for too long and those of workers that stayed away."""
        now = self._clock()
        gone = [w for w in self._workers.values() if w.left_at is not None and now - w.left_at >= self._grace_seconds]
        releases = [self._take_away(entry) for worker in gone for entry in list(worker.held.values())]
        self._workers = {name: worker for name, worker in self._workers.items() if worker not in gone}
        for entry in [e for w in self._workers.values() for e in w.held.values() if e.deadline <= now]:
            entry.attempts += 1
            releases.append(self._take_away(entry))
        return releases

    def _next(self, queued: int) -> Entry | None:
        """The first lease in line, or a new one if the bound allows it."""
        while self._queue:
            _, group_id = heapq.heappop(self._queue)
            self._queued.remove(group_id)
            entry = self._entries.get(group_id)
            if entry is not None and not entry.holder and self._wanted(entry.lease):
                return entry
        may_draw = self._drawing and self._outstanding + queued < self._max_outstanding
        return self._open(self._source.draw()) if may_draw else None

    def _wanted(self, lease: Lease) -> bool:
        return self._drawing or lease.purpose is not Purpose.TRAIN

    def _free(self, ready: Collection[str] | None) -> list[str]:
        return [
            worker_id
            for worker_id, worker in self._workers.items()
            if worker.left_at is None and len(worker.held) < worker.capacity and (ready is None or worker_id in ready)
        ]

    def _place(self, worker_id: str) -> _Place:
        worker = self._workers[worker_id]
        return len(worker.held), worker.served, worker_id

    def _choose(self, entry: Entry, free: list[_Place], able: Collection[str] | None) -> str | None:
        """Take the worker that holds least from the heap, among those that are able.

        Not the one that just failed, unless no other is able.
        """
        if entry.not_before > self._clock():
            return None
        skipped, failed, chosen = [], None, None
        while free and chosen is None:
            place = heapq.heappop(free)
            if able is not None and place[2] not in able:
                skipped.append(place)
            elif place[2] == entry.avoid:
                failed = place
            else:
                chosen = place
        if chosen is None and failed is not None and not self._has_another(entry.avoid, able):
            chosen, failed = failed, None
        for place in [*skipped, *([failed] if failed else [])]:
            heapq.heappush(free, place)
        return chosen[2] if chosen else None

    def _has_another(self, worker_id: str, able: Collection[str] | None) -> bool:
        return any(
            worker.left_at is None and name != worker_id and (able is None or name in able)
            for name, worker in self._workers.items()
        )

    def _open(self, lease: Lease) -> Entry:
        entry = Entry(lease=lease, order=self._orders, since=self._clock())
        self._orders += 1
        self._entries[lease.group_id] = entry
        self._outstanding += lease.purpose is Purpose.TRAIN
        return entry

    def _held(self, group_id: str, worker_id: str, nonce: str) -> Entry | None:
        """The lease, if the worker holds it by this very grant."""
        entry = self._entries.get(group_id)
        return entry if entry is not None and entry.holder == worker_id and entry.nonce == nonce else None

    def _hold(self, entry: Entry, worker_id: str, nonce: str) -> None:
        entry.holder, entry.nonce, entry.since = worker_id, nonce, self._clock()
        entry.tokens, entry.steps, entry.stage = 0, 0, ""
        self._renew(entry)
        self._grants += 1
        self._workers[worker_id].served = self._grants
        self._workers[worker_id].held[entry.lease.group_id] = entry

    def _renew(self, entry: Entry) -> None:
        entry.moved_at = self._clock()
        # The worker's own limit ends first; the grace is for its word to arrive, and its words come in intervals.
        limit = entry.lease.limit_seconds
        entry.deadline = entry.moved_at + limit + self._grace_seconds + 2 * REPORT_SECONDS if limit else math.inf

    def _wait(self, entry: Entry) -> None:
        group_id = entry.lease.group_id
        if group_id not in self._queued:
            self._queued.add(group_id)
            heapq.heappush(self._queue, (entry.rank, group_id))

    def _close(self, entry: Entry) -> None:
        del self._entries[entry.lease.group_id]
        if entry.holder:
            del self._workers[entry.holder].held[entry.lease.group_id]
        self._outstanding -= entry.lease.purpose is Purpose.TRAIN

    def _release(self, entry: Entry) -> None:
        self._workers[entry.holder].held.pop(entry.lease.group_id)
        entry.holder, entry.nonce, entry.deadline, entry.since = "", "", math.inf, self._clock()
        self._wait(entry)

    def _take_away(self, entry: Entry) -> Release:
        worker_id, abandoned = entry.holder, entry.attempts >= self._max_attempts
        entry.avoid = worker_id
        self._workers[worker_id].returned_in_row += 1
        if abandoned:
            self._close(entry)  # the source forgets it in ``complete``: only once the store has counted it
        else:
            self._release(entry)
        return Release(lease=entry.lease, worker_id=worker_id, abandoned=abandoned, stage=entry.stage)
