"""Groups that wait for training, in order of arrival, and the lag rule at batch time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.border import VersionRange
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.records import RolloutGroup
from rlserve.store.base import Store


@dataclass(frozen=True, slots=True)
class _Queued:
    group: RolloutGroup
    versions: VersionRange


class GroupQueue:
    """The store's queue, decoded. Not thread-safe.

    After a rollback it may hold groups of versions that are yet to be made again. They are taken when their
    versions exist; in the old order that is always in time, so a resumed run trains on the same batches.
    """

    def __init__(self, store: Store, *, max_lag: int, version: int, decode: Callable[[bytes], RolloutGroup]) -> None:
        """Raises StateCorrupt when a stored group cannot be decoded."""
        self._store = store
        self._max_lag = max_lag
        self.version = version
        """Newest published policy version."""
        self.newest_known = version
        """Newest version that workers may have sampled with."""
        self._queued = {q.group_id: _decoded(q.group_id, q.payload, decode) for q in store.queued()}
        self._taken: set[str] = set()

    def __len__(self) -> int:
        """Groups that stand in the way of new ones: taken or to be taken, future ones left out."""
        return sum(queued.versions.newest <= self.newest_known for queued in self._queued.values())

    @property
    def num_taken(self) -> int:
        """Groups in training: taken, and neither consumed nor dropped."""
        return len(self._taken)

    def add(self, group: RolloutGroup, versions: VersionRange) -> None:
        """A group that the store has queued."""
        self._queued[group.group_id] = _Queued(group, versions)

    def is_stale(self, versions: VersionRange) -> bool:
        """Whether a token is older than the lag bound allows."""
        return self.version - versions.oldest > self._max_lag

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

    def published(self, version: int) -> None:
        """The newest version that workers can have."""
        self.version = version
        self.newest_known = max(self.newest_known, version)

    def _forget(self, group_ids: Sequence[str]) -> None:
        for group_id in group_ids:
            self._queued.pop(group_id, None)
            self._taken.discard(group_id)


def _decoded(group_id: str, payload: bytes, decode: Callable[[bytes], RolloutGroup]) -> _Queued:
    try:
        group = decode(payload)
    except InvalidRequest as error:
        raise StateCorrupt(f"store: queued group {group_id!r} cannot be read ({error})") from error
    return _Queued(group, VersionRange.of(group, default=0))
