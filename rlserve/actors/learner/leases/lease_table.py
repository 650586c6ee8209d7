"""Which worker works on which group: a state machine without threads or sockets, and with the clock passed in.

A lease is drawn, held by one worker, and completed when its group is stored. Until then it never disappears: one that
is returned, makes no progress for too long, or whose worker leaves goes to the front of the queue, with the same group
id and seed, for another worker if there is one. Leases are the permission to work: new ones are drawn only while
``outstanding + queued groups`` is below the bound. Leases of an evaluation come first and are outside the bound.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from rlserve.actors.learner.leases.lease_state import Entry, FreeWorkers, Release, Source, Worker, WorkerLeases
from rlserve.actors.learner.leases.settings import GRACE_SECONDS
from rlserve.records import Purpose
from rlserve.records.lease import REPORT_SECONDS, Lease, LeaseProgress

MAX_ATTEMPTS = 8
"""Their pauses add up to 26 s, in which a crashed server of the task is started again."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 10.0
"""Doubling. The first is short: most failures are of one worker, and another may succeed at once."""


class LeaseTable:
    """All open leases, and the workers that may hold them. Not thread-safe.

    Example, with ``max_outstanding`` 2::

        table.join("a", capacity=4)
        table.grant(queued=0)    # {"a": [lease 0, lease 1]}: the bound, not the capacity, ends it
        table.complete("run/train/0")
        table.grant(queued=1)    # {}: one is out, one group waits for training
        table.leave("a")         # after the grace ``expire`` puts lease 1 back in the queue
    """

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
        # A heap, from which nothing is removed out of turn: a lease that was completed or granted meanwhile stays in it
        # until it is popped.
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
        """Open training leases, held or queued."""
        return self._outstanding

    def stop_drawing(self) -> None:
        """Stop granting training leases; groups of leases already held are still accepted."""
        self._drawing = False

    def find(self, group_id: str) -> Lease | None:
        """The open lease of a group."""
        entry = self._entries.get(group_id)
        return entry.lease if entry else None

    def open_leases(self, environment: str) -> list[Lease]:
        """Training leases of an environment, held or queued."""
        leases = [entry.lease for entry in self._entries.values()]
        return [lease for lease in leases if lease.environment == environment and lease.purpose is Purpose.TRAIN]

    def workers(self) -> list[WorkerLeases]:
        """Workers that are connected, or left so recently that they keep their leases; sorted by name."""
        now = self._clock()
        return [worker.leases(worker_id, now) for worker_id, worker in sorted(self._workers.items())]

    def add(self, leases: Iterable[Lease]) -> None:
        """Queue leases that are not drawn here: those of an evaluation, or left by an earlier process."""
        for lease in leases:
            if lease.group_id not in self._entries:
                self._wait(self._open(lease))

    def join(self, worker_id: str, *, capacity: int, held: Mapping[str, str] | None = None) -> frozenset[str]:
        """A worker is connected (again) and gives a nonce for each group it works on; returns those that it keeps.

        A lease that the table granted to it and it gives no valid nonce for was lost on the way: it is queued again.
        """
        worker = self._workers.setdefault(worker_id, Worker(capacity=capacity))
        worker.capacity, worker.left_at = capacity, None
        proven = {
            group_id: nonce
            for group_id, nonce in (held or {}).items()
            if group_id in self._entries and self._source.nonces.proves(nonce, group_id, worker_id)
        }
        # Released without a failed try: the worker never got the grant, or restarted without it.
        for entry in [entry for group_id, entry in worker.held.items() if group_id not in proven]:
            self._release(entry)
        for group_id, nonce in proven.items():
            entry = self._entries[group_id]
            if not entry.holder:
                # Granted by an earlier learner process, or taken back after the grace: the worker may keep it, its work
                # is not lost.
                self._hold(entry, worker_id, nonce)
            elif entry.holder == worker_id:
                # The worker may hold it by an earlier grant, when the credit with the latest was lost with its stream.
                entry.nonce = nonce
        return frozenset(worker.held)

    def leave(self, worker_id: str) -> None:
        """The worker's stream ended; after the grace :meth:`expire` takes its leases back."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.left_at is None:
            worker.left_at = self._clock()

    def grant(
        self, *, queued: int, ready: Collection[str] | None = None, current: Collection[str] | None = None
    ) -> dict[str, list[Lease]]:
        """Grant as many leases as the bound allows, by worker; the one that holds least comes first.

        ``queued`` groups wait for training; ``ready`` are the workers that may be granted training leases (None: all),
        ``current`` those that serve the newest version and may be granted leases of an evaluation (None: all).
        """
        granted: dict[str, list[Lease]] = {}
        passed_over = []
        free = FreeWorkers(self._workers, ready)
        while free:
            entry = self._next(queued)
            if entry is None:
                break
            able = current if entry.lease.purpose is Purpose.EVALUATE else ready
            worker_id = None if entry.not_before > self._clock() else free.pop(able, avoid=entry.avoid)
            if worker_id is None:
                # Put back after the loop only: queued now, the same lease would come up again at once.
                passed_over.append(entry)
                continue
            self._hold(entry, worker_id, self._source.nonces.make(entry.lease.group_id, worker_id))
            granted.setdefault(worker_id, []).append(replace(entry.lease, nonce=entry.nonce))
            free.push(worker_id)
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
        """The worker finished a group: its failures in a row count from 0 again."""
        if (worker := self._workers.get(worker_id)) is not None:
            worker.returned_in_row = 0

    def progress(self, worker_id: str, report: LeaseProgress) -> bool:
        """The holder reports how far it is; True when that is further than before, which renews the lease."""
        entry = self._held(report.group_id, worker_id, report.nonce)
        if entry is None:
            return False
        # Also without progress: the message of an expiry names where the work stands.
        entry.stage = report.stage
        if report.tokens <= entry.tokens and report.steps <= entry.steps:
            return False
        # Each by itself the highest so far: two numbers that rise and fall in turn must not renew a lease without end.
        entry.tokens, entry.steps = max(entry.tokens, report.tokens), max(entry.steps, report.steps)
        self._renew(entry)
        return True

    def prolong(self, seconds: float) -> None:
        """This process did not run for so long: extend every deadline by it."""
        # Graces too: a worker whose stream broke during the pause had no chance to dial again.
        for worker in self._workers.values():
            if worker.left_at is not None:
                worker.left_at += seconds
            for entry in worker.held.values():
                entry.deadline += seconds

    def return_lease(
        self, group_id: str, worker_id: str, nonce: str, *, failed: bool = True, final: bool = False
    ) -> Release | None:
        """The holder will not finish the lease. None when the worker does not hold it by this nonce (any more).

        A lease that ``failed`` pauses before it is tried again, each time longer, and is abandoned after the last
        attempt; one whose failure is ``final`` is abandoned at once.
        """
        entry = self._held(group_id, worker_id, nonce)
        if entry is None:
            return None
        entry.attempts = self._max_attempts if final else entry.attempts + failed
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** max(0, entry.attempts - 1))
        entry.not_before = self._clock() + pause
        return self._take_away(entry)

    def expire(self) -> list[Release]:
        """Take back leases without progress for too long, and those of workers that did not come back."""
        now = self._clock()
        gone = [w for w in self._workers.values() if w.left_at is not None and now - w.left_at >= self._grace_seconds]
        # A worker that left costs no try: the task is not to blame. The list, because ``_take_away`` removes from
        # ``held``.
        releases = [self._take_away(entry) for worker in gone for entry in list(worker.held.values())]
        # After the line above, which still looks the workers up by name.
        self._workers = {name: worker for name, worker in self._workers.items() if worker not in gone}
        for entry in [e for w in self._workers.values() for e in w.held.values() if e.deadline <= now]:
            entry.attempts += 1
            releases.append(self._take_away(entry))
        return releases

    def _next(self, queued: int) -> Entry | None:
        """The first lease of the queue, or a new one if the bound allows it."""
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
        # A new holder begins at 0, which would be no progress beside the last holder's count.
        entry.tokens, entry.steps, entry.stage = 0, 0, ""
        self._renew(entry)
        self._grants += 1
        self._workers[worker_id].served = self._grants
        self._workers[worker_id].held[entry.lease.group_id] = entry

    def _renew(self, entry: Entry) -> None:
        entry.moved_at = self._clock()
        # The worker times out first; the grace covers the delivery of its LeaseReturn, and its progress reports, which
        # it sends every REPORT_SECONDS, may be one interval old on arrival.
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
        # Another worker may succeed where this one failed, so this one comes last when the lease is granted again.
        entry.avoid = worker_id
        self._workers[worker_id].returned_in_row += 1
        if abandoned:
            self._close(entry)  # the source forgets it in ``complete``: only once the store has counted it
        else:
            self._release(entry)
        return Release(lease=entry.lease, worker_id=worker_id, abandoned=abandoned, stage=entry.stage)
