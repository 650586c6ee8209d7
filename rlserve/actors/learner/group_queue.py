"""Where the training groups are: a store on disk, its queue decoded, and the lag rule at batch time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.actors.learner.border import VersionRange
from rlserve.actors.learner.intake import Decision, Facts, InboxSettings, Opened, receipt
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.records import Purpose, RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.store.base import GroupInfo, Receipt, Store


@dataclass(frozen=True, slots=True)
class _Queued:
    group: RolloutGroup
    versions: VersionRange


class GroupQueue:
    """The store's queue, decoded. Not thread-safe.

    After a rollback it may hold groups of versions that are yet to be made again. They are taken when their
    versions exist; in the old order that is always in time, so a resumed run trains on the same batches.
    """

    def __init__(self, store: Store, settings: InboxSettings, *, version: int) -> None:
        """Rolls the store back to ``version``. Raises StateCorrupt when a stored group cannot be decoded."""
        store.rollback(version)
        self._store = store
        self._settings = settings
        self._checkpointed = version
        self.version = version
        """Newest published policy version."""
        self.newest_known = version
        """Newest version that workers may have sampled with."""
        self._queued = {q.group_id: _decoded(q.group_id, q.payload, settings.limits) for q in store.queued()}
        self._taken: set[str] = set()

    def __len__(self) -> int:
        """Groups that stand in the way of new ones: taken or to be taken, future ones left out."""
        return sum(queued.versions.newest <= self.newest_known for queued in self._queued.values())

    @property
    def num_taken(self) -> int:
        """Groups in training: taken, and neither consumed nor dropped."""
        return len(self._taken)

    def receive(self, judged: Sequence[tuple[Opened, Decision]]) -> None:
        """Write what was decided on in one transaction, then queue what is to be trained on."""
        receipts = [kept for kept in (receipt(*pair) for pair in judged) if kept is not None]
        rejected = Counter(decision.reason for _, decision in judged if decision.counted)
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
            newest_known=self.newest_known,
            max_lag=self._settings.max_lag,
            temperature=self._settings.temperature,
            already_received=already_received,
        )

    def knows(self, group_id: str) -> bool:
        """Whether the group was received, by this process or an earlier one."""
        return self._store.knows(group_id)

    def is_stale(self, versions: VersionRange) -> bool:
        """Whether a token is older than the lag bound allows."""
        return self.version - versions.oldest > self._settings.max_lag

    def drop_stale(self) -> int:
        """Drop what grew stale while it waited; returns how many."""
        stale = [
            group_id
            for group_id, queued in self._queued.items()
            if group_id not in self._taken and self.is_stale(queued.versions)
        ]
        if stale:
            self._store.drop(stale, "stale", step=self.version + 1)
            self._forget(stale)
        return len(stale)

    def fresh(self) -> list[RolloutGroup]:
        """What may be taken now, oldest first."""
        return [
            queued.group
            for group_id, queued in self._queued.items()
            if group_id not in self._taken and queued.versions.newest <= self.newest_known
        ]

    def missing(self, n: int) -> str:
        """How many of ``n`` groups are there, for people."""
        return f"inbox: {len(self.fresh())} of {n} groups are there for version {self.version}"

    def take(self, n: int) -> list[RolloutGroup]:
        """The ``n`` oldest fresh groups; they stay queued until they are consumed or dropped.

        In the order of their leases: that of arrival differs from run to run, and so would every sum over them.
        """
        groups = self.fresh()[:n]
        self._taken.update(group.group_id for group in groups)
        return sorted(groups, key=lambda group: (len(group.group_id), group.group_id))

    def put_back(self, group_ids: Sequence[str]) -> None:
        """Taken, but neither trained on nor dropped: they wait again, in their old order."""
        self._taken.difference_update(group_ids)

    def consume(self, group_ids: Sequence[str], *, step: int) -> None:
        """Trained on by ``step``."""
        self._store.consume(group_ids, step=step)
        self._forget(group_ids)
        # Workers may have these weights before the learner says that they are published.
        self.newest_known = max(self.newest_known, step)

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        """Taken for ``step``, but not trained on; None: never to be taken again, whatever is rolled back."""
        self._store.drop(group_ids, reason, step=step)
        self._forget(group_ids)

    def checkpointed(self, step: int) -> None:
        """A checkpoint of ``step`` is whole. A run may still resume at the one before it, not further back."""
        self._store.checkpoint(self._checkpointed)
        self._checkpointed = step

    def published(self, version: int) -> None:
        """The newest version that workers can have."""
        self.version = version
        self.newest_known = max(self.newest_known, version)

    def _forget(self, group_ids: Sequence[str]) -> None:
        for group_id in group_ids:
            self._queued.pop(group_id, None)
            self._taken.discard(group_id)


def _decoded(group_id: str, payload: bytes, limits: GroupLimits) -> _Queued:
    try:
        group = codec.group_from_bytes(payload, limits=limits)
    except InvalidRequest as error:
        raise StateCorrupt(f"store: queued group {group_id!r} cannot be read ({error})") from error
    return _Queued(group, VersionRange.of(group, default=0))
