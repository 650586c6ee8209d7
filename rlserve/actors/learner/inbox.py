"""Takes finished groups in, each exactly once or accounted for, and hands full batches to training.

Two sides meet here. The service calls ``join``, ``leave``, ``grant``, ``offer_many``, ``progress``, ``returned`` and
``expire``, none of which waits for anything but the lock and a commit. The training thread calls the rest:

* ``take`` waits for n fresh groups. Unblocked by ``offer``; its deadline names who owes what.
* ``take_evaluation`` waits for the groups of a measurement. Unblocked by ``offer``, or by a lease given up.

Whatever frees credits calls the function given to ``on_credit``, from either thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from rlserve.actors.learner.border import AckDecision, AckStatus
from rlserve.actors.learner.evaluation_round import EvaluationCounts, EvaluationRound
from rlserve.actors.learner.group_queue import GroupQueue
from rlserve.actors.learner.intake import InboxSettings, Intake, Keep, Offer
from rlserve.actors.learner.issuer import LeaseSource
from rlserve.actors.learner.lease_state import Release, WorkerLeases
from rlserve.actors.learner.leases import LeaseTable
from rlserve.actors.learner.mixture import MixtureEntry
from rlserve.actors.learner.troubles import Troubles, Warn
from rlserve.errors import TASK_FAULTS, DeadlineExceeded, NotReady, PluginFailed
from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease, LeaseProgress
from rlserve.store.base import GroupCounts, Store

logger = logging.getLogger(__name__)

STILL_SECONDS = 5.0
"""A worker whose leases have not moved for longer is said to stand still."""


class Inbox:
    """The one door for groups. Thread-safe."""

    def __init__(
        self,
        store: Store,
        settings: InboxSettings,
        *,
        keep: Keep,
        decode: Callable[[bytes], RolloutGroup],
        version: int = 0,
        on_received: Callable[[RolloutGroup], None] | None = None,
        warn: Warn = lambda message, **fields: logger.warning("%s", message),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Goes on where ``store`` is once it is rolled back to ``version``, the step of the checkpoint.

        ``decode`` reads a stored payload; ``on_received`` sees every training group that counts as received,
        also those that teach nothing, on the service's thread. ``warn`` is told of each new cause of trouble; like
        ``on_received`` it is called with the lock held.
        """
        self.settings = settings
        self._store = store
        self._clock = clock
        self._checkpointed = version
        self._closed = ""
        self._wake: Callable[[], object] = lambda: None
        self._changed = threading.Condition()
        store.rollback(version)
        self._publishing = False
        self._queue = GroupQueue(store, max_lag=settings.max_lag, version=version, decode=decode)
        self._source = LeaseSource(
            store,
            run_id=settings.run_id,
            seed=settings.seed,
            mixture=settings.mixture,
            num_samples=settings.num_samples,
            limit_seconds=settings.lease_seconds,
        )
        self._leases = LeaseTable(
            draw=self._source.draw,
            nonces=self._source.nonces,
            max_outstanding=settings.max_outstanding,
            clock=clock,
            grace_seconds=settings.grace_seconds,
        )
        self._leases.add(self._source.unsettled)
        self._evaluation = EvaluationRound()
        self._troubles = Troubles(batch=settings.batch, warn=warn)
        self._moved_at = clock()
        self._intake = Intake(
            store=store,
            settings=settings,
            book=self._leases,
            issuer=self._source,
            queue=self._queue,
            evaluation=self._evaluation,
            troubles=self._troubles,
            keep=keep,
            on_received=on_received,
        )

    def on_credit(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` whenever there may be leases to grant; it must not block."""
        self._wake = wake

    def join(self, worker_id: str, *, capacity: int, held: Mapping[str, str] | None = None) -> frozenset[str]:
        """A worker is connected (again) and proves what it holds by nonces; returns the leases that it keeps."""
        with self._changed:
            kept = self._leases.join(worker_id, capacity=capacity, held=held)
        self._wake()
        return kept

    def leave(self, worker_id: str) -> None:
        """A worker's stream ended; it keeps its leases for the grace."""
        with self._changed:
            self._leases.leave(worker_id)

    def grant(
        self, *, ready: Collection[str] | None = None, current: Collection[str] | None = None
    ) -> dict[str, list[Lease]]:
        """Leases to send now, by worker, among those in ``ready``; a later process knows of them.

        Those of an evaluation go to workers in ``current`` alone, which serve the newest version.
        """
        with self._changed:
            in_training = self._queue.num_taken if self.settings.leases_ahead else 0
            queued = len(self._queue) - in_training
            granted = self._leases.grant(queued=queued, ready=() if self._publishing else ready, current=current)
            self._source.save()
        return granted

    def offer_many(self, offers: Sequence[Offer]) -> list[AckDecision]:
        """Take groups in, or say why not, in their order. What is accepted is durable when this returns."""
        checked = [self._intake.check(offer) for offer in offers]
        with self._changed:
            decisions = self._intake.take(checked)
            trained = {c.offer.group_id for c in checked if c.group is not None and not c.useless}
            if any(d.status is AckStatus.ACCEPTED and d.group_id in trained for d in decisions):
                self._moved_at = self._clock()
            self._changed.notify_all()
        self._wake()
        return decisions

    def progress(self, worker_id: str, reports: Sequence[LeaseProgress]) -> None:
        """A worker says how far it is; what moved is renewed."""
        with self._changed:
            moved = [self._leases.progress(worker_id, report) for report in reports]
            if any(moved):
                self._moved_at = self._clock()

    def seconds_without_progress(self) -> float:
        """Since a lease moved, or a group came that can be trained on or was asked for."""
        with self._changed:
            return self._clock() - self._moved_at

    def story(self) -> str:
        """What came since the last batch was taken and why it did not help, for people; empty when nothing came."""
        with self._changed:
            return self._troubles.story()

    def returned(self, group_id: str, *, worker_id: str, nonce: str, reason: str, drop: str = "") -> None:
        """The worker cannot do the task; another will, or the same one later.

        With ``drop``, one of ``TASK_FAULTS``, nobody ever can: the lease is dropped under that word.
        """
        final = drop in TASK_FAULTS
        with self._changed:
            release = self._leases.give_back(group_id, worker_id, nonce, final=final)
            if release is not None:
                logger.info("%s gave back %s: %s", worker_id, group_id, reason)
                self._lost(release, reason, drop if final else "returned")
        self._wake()

    def expire(self, *, unheard_seconds: float = 0.0) -> list[Release]:
        """Take back what stood still for too long or was left behind; call it every fraction of a second.

        ``unheard_seconds`` is for how long nobody could be heard since the last call.
        """
        with self._changed:
            if unheard_seconds:
                self._leases.prolong(unheard_seconds)
            releases = self._leases.expire()
            for release in releases:
                stage = f", it stood at {release.stage}" if release.stage else ""
                self._lost(release, f"not heard of for too long{stage}", "expired")
        return releases

    def take(self, n: int, *, deadline_seconds: float) -> list[RolloutGroup]:
        """The ``n`` oldest fresh groups, as soon as there are as many. They stay queued until ``commit`` or ``drop``.

        Raises DeadlineExceeded that says what came, what became of it and what the workers owe; PluginFailed when
        no verdict was ever reached, for one reason that waiting does not mend; NotReady after ``close``.
        """
        with self._changed:
            self._wait(lambda: self._num_fresh() >= n, deadline_seconds, lambda: self._describe_missing(n))
            taken = self._queue.take(n)
            self._troubles.batch_taken()
        self._wake()
        return taken

    def commit(self, step: int, group_ids: Sequence[str], *, publishes: bool = False) -> None:
        """The groups were trained on by ``step``, which makes policy version ``step``.

        With ``publishes`` that version is about to be published: until then no lease is handed out, since it would
        be sampled by weights that are old already.
        """
        with self._changed:
            self._queue.consume(group_ids, step=step)
            self._publishing = publishes
        self._wake()

    def drop(self, step: int, group_ids: Sequence[str], reason: str) -> None:
        """The groups were taken for ``step`` and could not be trained on; making it again may take them again."""
        with self._changed:
            self._queue.drop(group_ids, reason, step=step)
        self._wake()

    def discard(self, group_ids: Sequence[str], reason: str) -> None:
        """The groups were taken and must never be taken again, also not when the run is resumed further back."""
        with self._changed:
            self._queue.drop(group_ids, reason, step=None)
        self._wake()

    def put_back(self, group_ids: Sequence[str]) -> None:
        """The groups were taken and not trained on; the next ``take`` gives them again."""
        with self._changed:
            self._queue.put_back(group_ids)

    def published(self, version: int) -> None:
        """The newest version that workers can have; the lag of a group counts from it."""
        with self._changed:
            self._publishing = False
            self._queue.published(version)
            self._changed.notify_all()
        self._wake()

    def checkpointed(self, step: int) -> None:
        """A checkpoint of ``step`` is whole. A run may still resume at the one before it, not further back."""
        self._store.checkpoint(self._checkpointed)
        self._checkpointed = step

    def mix(self, mixture: Sequence[MixtureEntry]) -> None:
        """Draw tasks by another mixture from the next new lease on."""
        with self._changed:
            self._source.mix(mixture)

    def withdraw(self, environment: str) -> int:
        """Drop the training leases of an environment that is gone, counted; returns how many there were.

        A group of one that still comes in is refused as no lease of its worker's.
        """
        with self._changed:
            dropped = self._intake.withdraw(environment)
            self._changed.notify_all()
        self._wake()
        return dropped

    @property
    def mixture(self) -> tuple[MixtureEntry, ...]:
        """The mixture of the next new lease."""
        with self._changed:
            return self._source.mixture

    def evaluate(self, leases: Sequence[Lease]) -> None:
        """Have these made before anything else, by the present version only. Ends an unfinished evaluation."""
        with self._changed:
            for group_id in self._evaluation.start(leases):
                self._leases.complete(group_id)
            self._leases.add(leases)
        self._wake()

    def take_evaluation(self, k: int, *, deadline_seconds: float) -> list[RolloutGroup]:
        """The groups of the evaluation in the order of its leases, once ``k`` are settled.

        Fewer when some were given up. Raises DeadlineExceeded, naming the workers, or NotReady after ``close``.
        """
        with self._changed:
            self._wait(lambda: self._evaluation.num_settled >= k, deadline_seconds, lambda: self._describe_pending(k))
            return self._evaluation.groups()

    def stop_training(self) -> None:
        """Lease no more training tasks; those that are held may still come in."""
        with self._changed:
            self._leases.stop_drawing()

    def close(self, reason: str = "the run is over") -> None:
        """Whoever waits stops waiting; the store stays open."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()

    @property
    def version(self) -> int:
        """Newest published policy version."""
        return self._queue.version

    def counts(self) -> GroupCounts:
        """Where the training groups are. Raises StateCorrupt when they do not add up."""
        return self._store.counts()

    @property
    def rejections(self) -> Mapping[str, int]:
        """Refused groups and frames by reason, since the start of the run."""
        return self._store.rejections()

    def evaluation_counts(self) -> EvaluationCounts:
        """Where the groups of evaluations are."""
        with self._changed:
            return self._evaluation.counts()

    @property
    def arrival_lags(self) -> Mapping[int, int]:
        """Training groups of this process by the lag of their oldest token on arrival."""
        with self._changed:
            return dict(self._intake.arrival_lags)

    def workers(self) -> list[WorkerLeases]:
        """The workers and what they hold."""
        with self._changed:
            return self._leases.workers()

    def _num_fresh(self) -> int:
        if self._queue.drop_stale():
            self._wake()  # the credits of what was dropped bring others
        return len(self._queue.fresh())

    def _wait(self, ready: Callable[[], bool], deadline_seconds: float, missing: Callable[[], str]) -> None:
        deadline = time.monotonic() + deadline_seconds
        while not ready():
            if self._closed:
                raise NotReady(f"inbox: is closed ({self._closed})")
            if self._troubles.fatal:
                raise PluginFailed(self._troubles.fatal)
            if (left := deadline - time.monotonic()) <= 0:
                raise DeadlineExceeded(missing())
            self._changed.wait(left)

    def _lost(self, release: Release, cause: str, reason: str) -> None:
        in_row = next((w.returned_in_row for w in self._leases.workers() if w.worker_id == release.worker_id), 0)
        if self._troubles.returned(release, cause, in_row):
            logger.warning("%s did not finish %s: %s", release.worker_id, release.lease.group_id, cause)
        self._intake.released(release, reason)
        self._changed.notify_all()

    def _describe_missing(self, n: int) -> str:
        fresh = len(self._queue.fresh())
        return f"inbox: {fresh} of {n} groups are there for version {self._queue.version}{self._describe_delay()}"

    def _describe_pending(self, k: int) -> str:
        first = next(iter(self._evaluation.pending), "none")
        settled = self._evaluation.num_settled
        return f"evaluation: {settled} of {k} groups are there, the next is {first!r}{self._describe_delay()}"

    def _describe_delay(self) -> str:
        """What came, and what the workers do."""
        story = self._troubles.story()
        workers = [describe_worker(worker) for worker in self._leases.workers()]
        owed = "; ".join(workers) if workers else "no rollout worker is connected: start one, or read its log"
        return "; ".join(["", *([story] if story else []), owed])


def describe_worker(worker: WorkerLeases) -> str:
    """What a worker holds and where it stands, for people."""
    state = "" if worker.connected else " (gone)"
    since = f", the oldest for {worker.oldest_seconds:.1f} s" if worker.held else ""
    stage = f" at {worker.stage}" if worker.stage else ""
    still = f", none moved for {worker.still_seconds:.0f} s" if worker.still_seconds >= STILL_SECONDS else ""
    return f"{worker.worker_id}{state} holds {worker.held} leases{since}{stage}{still}"
