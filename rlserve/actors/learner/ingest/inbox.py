"""Takes finished groups in, each exactly once or accounted for, and hands full batches to training.

Two sides meet here. The service calls ``join``, ``leave``, ``grant``, ``offer_many``, ``progress``, ``return_lease``
and ``expire``, none of which waits for anything but the lock and a commit. The training thread calls the rest:

* ``queue.take`` waits for n fresh groups. Unblocked by ``offer_many``; its deadline names who owes what.
* ``take_evaluation`` waits for the groups of an evaluation. Unblocked by ``offer_many``, or by an abandoned lease.

Whatever frees a lease calls the function given to ``on_grantable``, from either thread.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from rlserve.actors.learner.ingest.admission import (
    AckStatus,
    Decision,
    Offer,
    Opened,
    WhyDrop,
    decide,
    open_offer,
)
from rlserve.actors.learner.ingest.evaluation_round import EvaluationCounts, EvaluationRound
from rlserve.actors.learner.ingest.group_queue import GroupQueue
from rlserve.actors.learner.ingest.monitor import Monitor
from rlserve.actors.learner.ingest.troubles import Troubles, Warn
from rlserve.actors.learner.leases.lease_source import LeaseSource
from rlserve.actors.learner.leases.lease_state import Release, WorkerLeases
from rlserve.actors.learner.leases.lease_table import LeaseTable
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.errors import TASK_FAULTS, NotReady
from rlserve.records import Purpose, RolloutGroup
from rlserve.records.lease import Lease, LeaseProgress
from rlserve.store.base import Store

logger = logging.getLogger(__name__)

FULL_SECONDS = 1.0
"""Between two tries to write to a store that is full; a step takes about as long, and makes room."""

Observer = Callable[[RolloutGroup], object]
"""Sees every training group that counts as received, also those that are dropped; called with the lock held."""


class Inbox:
    """The only way in for groups: owns leases, queue and store. Thread-safe.

    Example::

        inbox.join("worker", capacity=2)
        leases = inbox.grant()["worker"]
        inbox.offer_many([offer_of(lease) for lease in leases])  # durable on return
        groups = inbox.queue.take(2, deadline_seconds=60)
    """

    def __init__(
        self,
        store: Store,
        settings: InboxSettings,
        *,
        why_drop: WhyDrop,
        version: int = 0,
        observers: Sequence[Observer] = (),
        warn: Warn = lambda message, **fields: logger.warning("%s", message),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Resumes from ``store``, rolled back to ``version``, the step of the checkpoint.

        ``warn`` gets each new cause of trouble, with the lock held.
        """
        self.settings = settings
        self._why_drop = why_drop
        self._observers = observers
        self._warn = warn
        self._clock = clock
        self._moved_at = clock()
        self._troubles = Troubles(batch=settings.batch, warn=warn)
        self._monitor = Monitor(check=self._troubles.check, delay=self._delay)
        self.queue = GroupQueue(store, settings, self._monitor, self._troubles, version=version)
        """The training thread's side."""
        self._source = LeaseSource(store, settings)
        self._leases = LeaseTable(
            source=self._source,
            max_outstanding=settings.max_outstanding,
            clock=clock,
            grace_seconds=settings.grace_seconds,
        )
        self._evaluation = EvaluationRound()

    def on_grantable(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` whenever there may be leases to grant; it must not block."""
        self._monitor.wake = wake

    def join(self, worker_id: str, *, capacity: int, held: Mapping[str, str] | None = None) -> frozenset[str]:
        """A worker is connected (again) and proves what it holds by nonces; returns the leases that it keeps."""
        with self._monitor.change():
            return self._leases.join(worker_id, capacity=capacity, held=held)

    def leave(self, worker_id: str) -> None:
        """A worker's stream ended; it keeps its leases for the grace."""
        with self._monitor:
            # No signal: its leases become free only after the grace, in ``expire``.
            self._leases.leave(worker_id)

    def grant(
        self, *, ready: Collection[str] | None = None, current: Collection[str] | None = None
    ) -> dict[str, list[Lease]]:
        """Leases to send now, by worker, among those in ``ready``; they survive a crash of this process.

        Those of an evaluation go to workers in ``current`` alone, which serve the newest version.
        """
        with self._monitor:
            # Groups sampled between a step and its weights are one version older than need be. A run with max_lag 0
            # dropped 45% of its groups as stale when leases went out at any time.
            ready = ready if self.queue.is_open else ()
            return self._leases.grant(queued=self.queue.num_ahead(), ready=ready, current=current)

    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]:
        """Decide on groups in their order. What is accepted is durable when this returns."""
        # Before the lock: to decode a group and ask the algorithm about it takes longest, and depends on no state.
        opened = [open_offer(offer, self.settings, self._source.nonces, self._why_drop) for offer in offers]
        while True:
            try:
                with self._monitor.change():
                    judged = self._decide(opened)
                    self.queue.receive(judged)
                    for one, decision in judged:  # after the store: when that raises, nothing may have changed
                        self._apply(one, decision)
                return [decision for _, decision in judged]
            except NotReady as error:
                # Without the lock: training goes on with what is queued, and makes room. If that does not help, the
                # wait for the next batch ends the run.
                self._warn(f"{error}; workers keep their groups until there is room", cause="the store is full")
                if self._monitor.wait_closed(FULL_SECONDS):
                    raise

    def progress(self, worker_id: str, reports: Sequence[LeaseProgress]) -> None:
        """A worker reports how far its leases are; each that progressed is renewed."""
        with self._monitor:
            moved = [self._leases.progress(worker_id, report) for report in reports]
            if any(moved):
                self._moved_at = self._clock()

    def return_lease(self, group_id: str, *, worker_id: str, nonce: str, reason: str, drop: str = "") -> None:
        """The worker cannot do the task; another will, or the same one later.

        With ``drop``, one of ``TASK_FAULTS``, no worker can: the lease is abandoned, its group dropped for that reason.
        """
        final = drop in TASK_FAULTS
        with self._monitor.change():
            release = self._leases.return_lease(group_id, worker_id, nonce, final=final)
            if release is not None:
                logger.info("%s returned %s: %s", worker_id, group_id, reason)
                self._not_finished(release, reason, drop if final else "returned")

    def expire(self, *, paused: Callable[[], float] = lambda: 0.0) -> list[Release]:
        """Take back leases without progress and those of workers that left; call it every fraction of a second.

        ``paused``: for how many seconds no report could renew a lease, because this process did not run, or waited for
        its store. It is called with the lock held, whose last holder may have waited so.
        """
        with self._monitor:
            # First: all leases that could not report during the pause would expire at once.
            if paused_seconds := paused():
                self._leases.prolong(paused_seconds)
            releases = self._leases.expire()
            for release in releases:
                stage = f", it stood at {release.stage}" if release.stage else ""
                self._not_finished(release, f"no progress for too long{stage}", "expired")
            if releases:  # without a wake: the service, which calls this, grants next
                self._monitor.notify()
        return releases

    def mix(self, mixture: Sequence[MixtureEntry]) -> None:
        """Draw tasks by another mixture from the next new lease on."""
        with self._monitor:
            self._source.mix(mixture)

    def abandon(self, environment: str) -> int:
        """Drop the groups of all training leases of an environment that is gone; returns how many there were.

        A group of one that still comes in is rejected: its lease is gone.
        """
        with self._monitor.change():
            leases = self._leases.open_leases(environment)
            # The store first: when it raises, the leases must still be open.
            self.queue.receive_dropped(leases, "environment_left")
            for lease in leases:
                self._leases.complete(lease.group_id)
        return len(leases)

    def evaluate(self, leases: Sequence[Lease]) -> None:
        """Grant these before any others, for the present version only. Ends an unfinished evaluation."""
        with self._monitor.change():
            for group_id in self._evaluation.start(leases):
                self._leases.complete(group_id)
            self._leases.add(leases)

    def take_evaluation(self, k: int, *, deadline_seconds: float) -> list[RolloutGroup]:
        """The groups of the evaluation in the order of its leases, once ``k`` leases have ended.

        Fewer when some were abandoned. Raises like ``GroupQueue.take``.
        """
        with self._monitor:
            self._monitor.wait_for(
                lambda: self._evaluation.num_ended >= k, deadline_seconds, lambda: self._evaluation.missing(k)
            )
            return self._evaluation.groups()

    def stop_training(self) -> None:
        """Grant no more training leases; the groups of those that are held are still accepted."""
        with self._monitor:
            self._leases.stop_drawing()

    def close(self, reason: str = "the run is over") -> None:
        """End every wait; the store stays open."""
        self._monitor.close(reason)

    @property
    def mixture(self) -> tuple[MixtureEntry, ...]:
        """The mixture of the next new lease."""
        with self._monitor:
            return self._source.mixture

    def evaluation_counts(self) -> EvaluationCounts:
        """Where the groups of evaluations are."""
        with self._monitor:
            return self._evaluation.counts()

    def workers(self) -> list[WorkerLeases]:
        """The workers and what they hold."""
        with self._monitor:
            return self._leases.workers()

    def seconds_without_progress(self) -> float:
        """Since a lease progressed, or a group came that is trained on or part of an evaluation."""
        with self._monitor:
            return self._clock() - self._moved_at

    def story(self) -> str:
        """What came since the last batch was taken and why it did not help, for people; empty when nothing came."""
        with self._monitor:
            return self._troubles.story()

    def _delay(self) -> str:
        return self._troubles.delay(self._leases.workers())

    def _decide(self, opened: Sequence[Opened]) -> list[tuple[Opened, Decision]]:
        judged, accepted = [], set[str]()
        for one in opened:
            group_id = one.offer.group_id
            lease = self._leases.find(group_id)
            # The store needs no query for an open lease, which is the usual case: its group is never in the store.
            ended = self._evaluation.knows(group_id) or (lease is None and self.queue.knows(group_id))
            decision = decide(one, lease, self.queue.facts(already_received=ended or group_id in accepted))
            judged.append((one, decision))
            if decision.status is AckStatus.ACCEPTED:
                # The second copy within one batch is a duplicate, though store and lease table do not know of the first
                # yet.
                accepted.add(group_id)
        return judged

    def _apply(self, one: Opened, decision: Decision) -> None:
        offer = one.offer
        if one.group is not None and decision.status is AckStatus.ACCEPTED:
            trains = one.group.purpose is Purpose.TRAIN
            self._leases.complete(offer.group_id)
            self._leases.finished(offer.worker_id)
            self._troubles.received(one.group, one.why_drop, trains=trains)
            for observe in self._observers if trains else (self._evaluation.receive,):
                observe(one.group)
            if not one.why_drop:
                self._moved_at = self._clock()
        elif decision.status is not AckStatus.DUPLICATE:
            if decision.counted:
                invalid = decision.status is AckStatus.REJECTED
                self._troubles.rejected(offer.worker_id, decision.reason, decision.message, tell=invalid)
            release = self._leases.return_lease(offer.group_id, offer.worker_id, offer.nonce, failed=decision.counted)
            if release is not None:
                self._count_if_abandoned(release, decision.reason)

    def _not_finished(self, release: Release, cause: str, reason: str) -> None:
        in_row = next((w.returned_in_row for w in self._leases.workers() if w.worker_id == release.worker_id), 0)
        self._troubles.returned(release, cause, in_row)
        self._count_if_abandoned(release, reason)

    def _count_if_abandoned(self, release: Release, reason: str) -> None:
        """Account for a lease that failed too often: its group counts as received and dropped for ``reason``."""
        if not release.abandoned:
            return
        lease = release.lease
        logger.error("%s is abandoned (%s)", lease.group_id, reason)
        if lease.purpose is Purpose.EVALUATE:
            self._evaluation.abandon(lease.group_id)
            return
        self.queue.receive_dropped([lease], reason, worker_id=release.worker_id)
        self._leases.complete(lease.group_id)
