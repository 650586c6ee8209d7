"""Statistics of the groups that arrive between two steps, dropped ones included: the honest view of reward."""

import threading
import time
from dataclasses import dataclass, field

from rlserve.batching.summary import is_right, is_scored
from rlserve.records import RolloutGroup


@dataclass(slots=True)
class _Interval:
    """Sums over the training groups that arrived between two calls of ``metrics``."""

    judged: int = 0
    """Samples with a reward."""
    right: int = 0
    scored: int = 0
    """Of those judged, neither right nor wrong."""
    reward_sum: float = 0.0
    sampled_tokens: int = 0
    by_environment: dict[str, tuple[float, int]] = field(default_factory=dict)
    """(sum of rewards, judged samples) by environment."""


class Arrivals:
    """Adds up what the service's thread receives, for the training thread. Thread-safe.

    Example: after a group of two samples with rewards 1 and 0, ``metrics`` has ``received/reward_mean`` 0.5; a second
    call, with nothing received since, leaves the mean out and has the same ``received/samples``, which never falls.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = _Interval()
        self._total_samples = 0
        self._drained_at = time.monotonic()
        self.sampled_tokens = 0
        """In all intervals that ended, since the start of the process."""

    def add(self, group: RolloutGroup) -> None:
        """Count a group that was received."""
        with self._lock:
            self._total_samples += len(group.trajectories)
            now, name = self._now, group.task.environment
            for trajectory in group.trajectories:
                now.sampled_tokens += trajectory.num_sampled
                if trajectory.verdict is None or not trajectory.verdict.has_reward:
                    continue
                now.judged += 1
                now.right += is_right(trajectory)
                now.scored += is_scored(trajectory)
                now.reward_sum += trajectory.verdict.reward
                rewards, judged = now.by_environment.get(name, (0.0, 0))
                now.by_environment[name] = (rewards + trajectory.verdict.reward, judged + 1)

    def metrics(self) -> dict[str, float]:
        """Of what was added since the last call."""
        # Swap inside, compute outside: ``add`` waits for this lock while it holds the inbox's.
        with self._lock:
            ended, self._now = self._now, _Interval()
            total_samples = self._total_samples
        now = time.monotonic()
        seconds, self._drained_at = now - self._drained_at, now
        self.sampled_tokens += ended.sampled_tokens
        numbers = {
            "received/samples": float(total_samples),
            # Two steps may follow each other within the clock's resolution.
            "rollout/tokens_per_second": ended.sampled_tokens / max(seconds, 1e-9),
        }
        if ended.judged:
            numbers["received/reward_mean"] = ended.reward_sum / ended.judged
            if not ended.scored:
                numbers["received/accuracy"] = ended.right / ended.judged
        for name, (rewards, judged) in ended.by_environment.items():
            numbers[f"received/reward_mean/{name}"] = rewards / judged
        return numbers
