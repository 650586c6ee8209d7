"""Curricula: an environment's training split moves to the next level as the policy masters the present one.

An environment with ``levels`` starts at the first. When the pass rate over the last ``window`` groups of the present
level reaches ``raise_at``, tasks are drawn from the next level. Levels never fall.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.batching.summary import is_right
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.records import RolloutGroup


@dataclass(slots=True)
class _Progress:
    config: EnvironmentConfig
    level: int = 0
    recent: deque[float] = field(default_factory=deque)
    """Pass rates of the last groups of this level."""

    @property
    def split(self) -> str:
        return self.config.levels[self.level]


class Curriculum:
    """The levels of a run's environments. Thread-safe: the service observes, the training thread reads and saves.

    Example, ``window`` 2 and ``raise_at`` 0.8: two groups at the first level with pass rates 1 and 0.5 leave it, two
    more with 1 and 1 raise it.
    """

    def __init__(self, environments: Iterable[EnvironmentConfig]) -> None:
        self._lock = threading.Lock()
        self._progress = {e.name: _Progress(e) for e in environments if e.levels}

    def observe(self, group: RolloutGroup) -> None:
        """Count a training group; groups of other levels are ignored."""
        with self._lock:
            progress = self._progress.get(group.task.environment)
            judged = [t for t in group.trajectories if t.verdict is not None and t.verdict.has_reward]
            if progress is None or group.task.split != progress.split or not judged:
                return
            progress.recent.append(sum(map(is_right, judged)) / len(judged))
            config = progress.config
            # A loop: a resumed run may have a smaller window than the one that filled ``recent``.
            while len(progress.recent) > config.window:
                progress.recent.popleft()
            full = len(progress.recent) == config.window
            last = progress.level == len(config.levels) - 1
            if full and not last and sum(progress.recent) / config.window >= config.raise_at:
                progress.level += 1
                progress.recent.clear()

    def applied(self, mixture: Sequence[MixtureEntry]) -> tuple[MixtureEntry, ...]:
        """The mixture with each environment at its level."""
        with self._lock:
            splits = {name: progress.split for name, progress in self._progress.items()}
        return tuple(replace(i, split=splits.get(i.environment, i.split)) for i in mixture)

    def metrics(self) -> dict[str, float]:
        """``curriculum/<environment>/level`` from 0, and the pass rate at it."""
        with self._lock:
            numbers: dict[str, float] = {}
            for name, progress in self._progress.items():
                numbers[f"curriculum/{name}/level"] = float(progress.level)
                if progress.recent:
                    numbers[f"curriculum/{name}/pass_rate"] = sum(progress.recent) / len(progress.recent)
            return numbers

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        with self._lock:
            return {name: {"level": p.level, "recent": list(p.recent)} for name, p in self._progress.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Resume from a checkpoint; environments that are no longer configured are left out."""
        with self._lock:
            for name, progress in self._progress.items():
                if name in saved:
                    # A resumed run may have fewer levels than it was saved with.
                    progress.level = min(int(saved[name]["level"]), len(progress.config.levels) - 1)
                    progress.recent = deque(float(rate) for rate in saved[name]["recent"])
