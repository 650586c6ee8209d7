"""The training thread's side of the inbox: which groups are queued, taken, trained on or dropped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.ingest.admission import Decision, Facts, Opened, receipt
from rlserve.actors.learner.ingest.checks import VersionRange
from rlserve.actors.learner.ingest.monitor import Monitor
from rlserve.actors.learner.ingest.troubles import Troubles
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.records import Purpose, RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.store.base import GroupCounts, GroupInfo, Receipt, Store


@dataclass(frozen=True, slots=True)
class _Queued:
    group: RolloutGroup
    versions: VersionRange


class GroupQueue:
    """The store, its queue decoded, and the lag rule at batch time. Thread-safe by the inbox's monitor.

    Example, one step on two groups::

        groups = queue.take(2, deadline_seconds=60)            # still queued: a crash here loses nothing
        queue.commit(1, [group.group_id for group in groups])  # consumed by the step that makes version 1
        queue.published(1)                                     # from here on lag counts from version 1

    After a rollback it may hold groups of versions that are yet to be made again. They are taken when their
    versions exist; in the old order that is always in time, so a resumed run trains on the same batches.
    """

    def __init__(
        self, store: Store, settings: InboxSettings, monitor: Monitor, troubles: Troubles, *, version: int
    ) -> None:
        """Rolls the store back to ``version``. Raises StateCorrupt when a stored group cannot be decoded."""
        # Before the queue is read: groups that steps after the checkpoint consumed are queued again.
        store.rollback(version)
        self._store = store
        self._settings = settings
        self._monitor = monitor
        self._troubles = troubles
        self._checkpointed = version
        self.version = version
        """Newest published policy version."""
        self._newest_known = version
        """Newest version that workers may have sampled with."""
        self._due = version
        """Version that is published or on its way to be."""
        # In order of arrival, which the dict keeps. Decoded now, so that a damaged payload ends the start and not a
        # later step.
        self._queued = {q.group_id: _decoded(q.group_id, q.payload, settings.limits) for q in store.queued()}
        self._taken: set[str] = set()

    def take(self, n: int, *, deadline_seconds: float) -> list[RolloutGroup]:
        """The ``n`` oldest fresh groups, as soon as there are as many; they stay queued until ``commit`` or ``drop``.

        In the order of their leases: that of arrival differs from run to run, and so would every sum over them.
        Raises DeadlineExceeded with what came, why it was dropped and what the workers hold; PluginFailed when every
        verdict failed for one reason that waiting does not cure; NotReady once the inbox is closed.
        """
        # A change, since leases may become free: with ``leases_ahead`` taken groups no longer count against the bound.
        with self._monitor.change():
            self._monitor.wait_for(lambda: self._num_fresh() >= n, deadline_seconds, missing=lambda: self._missing(n))
            self._troubles.batch_taken()
            groups = self._fresh()[:n]
            self._taken.update(group.group_id for group in groups)
        return sorted(groups, key=_lease_order)

    def foreseen(self, n: int) -> list[RolloutGroup]:
        """What the next ``take`` will most likely give, once the batch in training is published; empty until it is all
        there.

        Nothing is taken: groups that arrive out of order, or a version that is not published, may change it.
        """
        with self._monitor:
            lag = self._settings.max_lag
            groups = [g for g in self._fresh() if self._due + 1 - self._queued[g.group_id].versions.oldest <= lag]
        return sorted(groups[:n], key=_lease_order) if len(groups) >= n else []

    def commit(self, step: int, group_ids: Sequence[str], *, publishes: bool = False) -> None:
        """The groups were trained on by ``step``, which makes policy version ``step``.

        With ``publishes`` that version is about to be published: until then no lease is granted, since it would be
        sampled by weights that are old already.
        """
        with self._monitor.change():
            # The store first: if it raises, the queue in memory still agrees with it. So does ``drop``.
            self._store.consume(group_ids, step=step)
            self._forget(group_ids)
            # Workers may have these weights before the learner says that they are published.
            self._newest_known = max(self._newest_known, step)
            if publishes:
                self._due = step

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        """The groups were taken for ``step`` and could not be trained on; making it again may take them again.

        None: they are never taken again, also when the run is resumed further back.
        """
        with self._monitor.change():
            self._store.drop(group_ids, reason, step=step)
            self._forget(group_ids)

    def put_back(self, group_ids: Sequence[str]) -> None:
        """The groups were taken and not trained on; the next ``take`` gives them again, in their old order."""
        with self._monitor:
            # No signal: groups that are put back free no lease, and the thread that takes them is this one.
            self._taken.difference_update(group_ids)

    def published(self, version: int) -> None:
        """The newest version that workers can have; the lag of a group counts from it."""
        with self._monitor.change():
            self.version = version
            self._due = max(self._due, version)
            self._newest_known = max(self._newest_known, version)

    def checkpointed(self, step: int) -> None:
        """A checkpoint of ``step`` is whole. A run may still resume at the one before it, not further back."""
        # Without the lock: only the training thread uses ``_checkpointed``. The previous step, because a resume goes
        # back to it when the newest checkpoint turns out to be broken.
        self._store.checkpoint(self._checkpointed)
        self._checkpointed = step

    def counts(self) -> GroupCounts:
        """Where the training groups are. Raises StateCorrupt when they do not add up."""
        return self._store.counts()

    def rejections(self) -> Mapping[str, int]:
        """Rejected groups by reason, since the start of the run."""
        return self._store.rejections()

    # The inbox calls the following with the lock held.

    @property
    def is_open(self) -> bool:
        """Whether leases may be granted; False between a step and the publication of its weights."""
        return self.version == self._due

    def num_ahead(self) -> int:
        """Groups that count against the bound of leases: queued or in training, those of future versions left out."""
        # Taken groups stay in ``_queued`` until their commit, so they are in this sum.
        waiting = sum(queued.versions.newest <= self._newest_known for queued in self._queued.values())
        return waiting - (len(self._taken) if self._settings.leases_ahead else 0)

    def receive(self, judged: Sequence[tuple[Opened, Decision]]) -> None:
        """Write what was decided on in one transaction, then queue what is to be trained on."""
        receipts = [kept for kept in (receipt(*pair) for pair in judged) if kept is not None]
        rejected = Counter(decision.reason for _, decision in judged if decision.counted)
        # Duplicates and groups of an evaluation leave nothing to write: no commit for them.
        if receipts or rejected:
            self._store.receive_many(receipts, rejected=rejected)
        for opened, decision in judged:
            group, versions = opened.group, decision.versions
            if group is not None and versions is not None and group.purpose is Purpose.TRAIN and not opened.why_drop:
                self._queued[group.group_id] = _Queued(group, versions)

    def receive_dropped(self, leases: Sequence[Lease], reason: str, *, worker_id: str = "") -> None:
        """The groups of these leases will never come: they count as received and dropped."""
        infos = [GroupInfo(group_id=x.group_id, worker_id=worker_id, environment=x.environment) for x in leases]
        if infos:
            self._store.receive_many([Receipt(info=info, dropped=reason) for info in infos], rejected={})

    def facts(self, *, already_received: bool) -> Facts:
        """What the decision on a group depends on."""
        return Facts(
            version=self.version,
            newest_known=self._newest_known,
            max_lag=self._settings.max_lag,
            temperature=self._settings.temperature,
            already_received=already_received,
        )

    def knows(self, group_id: str) -> bool:
        """Whether the group was received, by this process or an earlier one."""
        return self._store.knows(group_id)

    def _num_fresh(self) -> int:
        # Not ``version``: the next step has the weights that are on their way to the workers.
        stale = [
            group_id
            for group_id, queued in self._queued.items()
            if group_id not in self._taken and self._due - queued.versions.oldest > self._settings.max_lag
        ]
        if stale:
            # Under the next step, not finally: a run that resumes further back queues them again, and there they may be
            # fresh.
            self._store.drop(stale, "stale", step=self._due + 1)
            self._forget(stale)
            self._monitor.wake()  # the leases that this frees bring other groups
        return len(self._fresh())

    def _fresh(self) -> list[RolloutGroup]:
        """What may be taken now, oldest first."""
        return [
            queued.group
            for group_id, queued in self._queued.items()
            if group_id not in self._taken and queued.versions.newest <= self._newest_known
        ]

    def _missing(self, n: int) -> str:
        return f"inbox: {len(self._fresh())} of {n} groups are there for version {self.version}"

    def _forget(self, group_ids: Sequence[str]) -> None:
        for group_id in group_ids:
            self._queued.pop(group_id, None)
            self._taken.discard(group_id)


def _lease_order(group: RolloutGroup) -> tuple[int, str]:
    # By length first: ids differ in a number at their end, and as text 10 would come before 9.
    return len(group.group_id), group.group_id


def _decoded(group_id: str, payload: bytes, limits: GroupLimits) -> _Queued:
    try:
        group = codec.group_from_bytes(payload, limits=limits)
    except InvalidRequest as error:
        raise StateCorrupt(f"store: queued group {group_id!r} cannot be read ({error})") from error
    return _Queued(group, VersionRange.of(group, default=0))
