"""The groups of an evaluation: kept apart from training, each received or abandoned."""

from collections.abc import Iterable
from dataclasses import dataclass

from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCounts:
    """Groups of all evaluations of this process: ``asked == received + abandoned + pending``."""

    asked: int
    received: int
    abandoned: int
    """Leases that failed too often."""
    pending: int


class EvaluationRound:
    """The groups asked for and received. Not thread-safe.

    Example: ``start`` with leases a and b, ``receive`` a, ``abandon`` b: ``num_ended`` is 2, ``groups()`` is [a].
    """

    def __init__(self) -> None:
        self._order: dict[str, None] = {}  # ids of this round, in the order they were asked for
        self._received: dict[str, RolloutGroup] = {}
        self._ended: set[str] = set()  # of this and earlier rounds
        self._asked = self._num_received = self._num_abandoned = 0

    def start(self, leases: Iterable[Lease]) -> list[str]:
        """Begin a round; returns the ids of the last one that did not end, which are abandoned."""
        missing = self.pending
        self._num_abandoned += len(missing)
        self._ended.update(missing)
        self._order = dict.fromkeys(lease.group_id for lease in leases)
        # A round that is made again under the same name has the same ids, and its groups are wanted again.
        self._ended -= self._order.keys()
        self._received.clear()
        self._asked += len(self._order)
        return missing

    @property
    def pending(self) -> list[str]:
        """Ids of this round that did not end."""
        return [group_id for group_id in self._order if group_id not in self._ended]

    @property
    def num_ended(self) -> int:
        """Groups of this round that were received or abandoned."""
        return sum(group_id in self._ended for group_id in self._order)

    def knows(self, group_id: str) -> bool:
        """Whether the group has ended: a further copy is a duplicate."""
        return group_id in self._ended

    def receive(self, group: RolloutGroup) -> None:
        """A group of this round arrived."""
        self._received[group.group_id] = group
        self._ended.add(group.group_id)
        self._num_received += 1

    def abandon(self, group_id: str) -> None:
        """A group of this round will not come."""
        self._ended.add(group_id)
        self._num_abandoned += 1

    def missing(self, k: int) -> str:
        """How many of ``k`` groups are there, for people."""
        first = next(iter(self.pending), "none")
        return f"evaluation: {self.num_ended} of {k} groups are there, the next is {first!r}"

    def groups(self) -> list[RolloutGroup]:
        """The groups received, in the order of their leases."""
        return [self._received[group_id] for group_id in self._order if group_id in self._received]

    def counts(self) -> EvaluationCounts:
        """Where the groups of all rounds are."""
        return EvaluationCounts(
            asked=self._asked,
            received=self._num_received,
            abandoned=self._num_abandoned,
            pending=len(self.pending),
        )
