"""What came in between two steps, groups that teach nothing included: the honest view of reward."""

import threading
from dataclasses import dataclass, field

from rlserve.batching.summary import is_right
from rlserve.records import RolloutGroup


@dataclass(slots=True)
class Received:
    """Sums over the training groups of one interval."""

    samples: int = 0
    judged: int = 0
    """Samples with a reward."""
    right: int = 0
    reward_sum: float = 0.0
    sampled_tokens: int = 0
    by_environment: dict[str, tuple[float, int]] = field(default_factory=dict)
    """(sum of rewards, judged samples) by environment."""


class Arrivals:
    """Adds up what the service's thread takes in, for the training thread. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Received()
        self.total_samples = 0
        """Since the start of the process."""

    def add(self, group: RolloutGroup) -> None:
        """Count a group that was received."""
        with self._lock:
            self.total_samples += len(group.trajectories)
            now, name = self._now, group.task.environment
            for trajectory in group.trajectories:
                now.samples += 1
                now.sampled_tokens += trajectory.num_sampled
                if trajectory.verdict is None or not trajectory.verdict.has_reward:
                    continue
                now.judged += 1
                now.right += is_right(trajectory)
                now.reward_sum += trajectory.verdict.reward
                rewards, judged = now.by_environment.get(name, (0.0, 0))
                now.by_environment[name] = (rewards + trajectory.verdict.reward, judged + 1)

    def drain(self) -> Received:
        """What was added since the last call."""
        with self._lock:
            drained, self._now = self._now, Received()
        return drained
