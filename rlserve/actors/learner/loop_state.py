"""State of the training loop that a checkpoint keeps, beside model and optimizer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rlserve.store.base import StoreMark

REWARD_WINDOW = 5
"""Steps whose median reward ends a run early: few, yet one absurd step cannot decide."""


@dataclass(slots=True, kw_only=True)
class LoopState:
    """Position of the loop, and the numbers that it carries from step to step."""

    step: int = 0
    before: Mapping[str, Any] | None = None
    """``Evaluation.to_json`` of the measurement before training; None until it is made."""
    owed: str = ""
    """Name of the measurement due at this step; empty when none is due."""
    lag_tokens: Counter[int] = field(default_factory=Counter)
    """Trained tokens by lag in versions."""
    recent_rewards: list[float] = field(default_factory=list)
    """Mean reward of what was received in each of the last steps."""
    syncs: int = 0
    """Weight syncs after the first publication."""
    synced_step: int = 0
    """Step of the newest published weights."""
    curriculum: Mapping[str, Any] = field(default_factory=dict)
    """Curriculum levels by environment."""
    store: StoreMark | None = None
    """The store's mark for this checkpoint; None before the first."""

    def note_reward(self, mean: float) -> None:
        """Add the mean reward of the groups received in a step."""
        self.recent_rewards = [*self.recent_rewards, mean][-REWARD_WINDOW:]

    def has_reached(self, wanted: float | None) -> bool:
        """Whether the median reward of the last steps is at least ``wanted``; never when that is None.

        The median, because one absurd reward among a step's samples must not end a run.
        """
        recent = self.recent_rewards
        return wanted is not None and len(recent) == REWARD_WINDOW and median(recent) >= wanted

    def to_json(self) -> dict[str, Any]:
        """Plain data for the checkpoint's manifest."""
        return {
            "step": self.step,
            "before": self.before,
            "owed": self.owed,
            "lag_tokens": {str(lag): count for lag, count in self.lag_tokens.items()},  # JSON keys are strings
            "recent_rewards": self.recent_rewards,
            "syncs": self.syncs,
            "synced_step": self.synced_step,
            "curriculum": dict(self.curriculum),
            "store": asdict(self.store) if self.store else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LoopState":
        """Undo ``to_json``."""
        return cls(
            step=int(value["step"]),
            before=value["before"],
            owed=value["owed"],
            lag_tokens=Counter({int(lag): int(count) for lag, count in value["lag_tokens"].items()}),
            recent_rewards=[float(reward) for reward in value["recent_rewards"]],
            syncs=int(value["syncs"]),
            synced_step=int(value["synced_step"]),
            curriculum=value["curriculum"],
            store=StoreMark(**value["store"]),
        )
