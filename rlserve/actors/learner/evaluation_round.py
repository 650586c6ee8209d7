"""Groups of an evaluation: collected apart, never trained on, complete or accounted for."""

from collections.abc import Iterable
from dataclasses import dataclass

from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCounts:
    """Groups of all evaluations of this process: ``asked == received + given_up + pending``."""

    asked: int
    received: int
    given_up: int
    """Failed too often on every worker."""
    pending: int


class EvaluationRound:
    """What was asked for and what has come. Not thread-safe."""

    def __init__(self) -> None:
        self._order: dict[str, None] = {}  # ids of this round, in the order they were asked for
        self._received: dict[str, RolloutGroup] = {}
        self._settled: set[str] = set()  # of this and earlier rounds
        self._asked = self._num_received = self._num_given_up = 0

    def start(self, leases: Iterable[Lease]) -> list[str]:
        """Ask for a new round; returns the ids of the last one that never came."""
        missing = self.pending
        self._num_given_up += len(missing)
        self._settled.update(missing)
        self._order = dict.fromkeys(lease.group_id for lease in leases)
        self._settled -= self._order.keys()
        self._received.clear()
        self._asked += len(self._order)
        return missing

    @property
    def pending(self) -> list[str]:
        """Ids of this round that are still worked on."""
        return [group_id for group_id in self._order if group_id not in self._settled]

    @property
    def num_settled(self) -> int:
        """Groups of this round that came or were given up."""
        return sum(group_id in self._settled for group_id in self._order)

    def knows(self, group_id: str) -> bool:
        """Whether the group is settled: a further copy is a duplicate."""
        return group_id in self._settled

    def receive(self, group: RolloutGroup) -> None:
        """A group of this round is in."""
        self._received[group.group_id] = group
        self._settled.add(group.group_id)
        self._num_received += 1

    def give_up(self, group_id: str) -> None:
        """A group of this round will not come."""
        self._settled.add(group_id)
        self._num_given_up += 1

    def groups(self) -> list[RolloutGroup]:
        """What has come, in the order it was asked for."""
        return [self._received[group_id] for group_id in self._order if group_id in self._received]

    def counts(self) -> EvaluationCounts:
        """Where the groups of all rounds are."""
        return EvaluationCounts(
            asked=self._asked,
            received=self._num_received,
            given_up=self._num_given_up,
            pending=len(self.pending),
        )
