"""The best evaluation of a run: which checkpoint is kept for it, and whether it is still worth to go on."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlserve.actors.learner.measure.evaluation import Evaluation
from rlserve.config.tables.evaluate import EvaluateConfig
from rlserve.store.base import Store

logger = logging.getLogger(__name__)

FACT = "best evaluation"
LINK = "best"
"""Name beside the checkpoints, a link to the best one."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far."""

    step: int
    value: float
    since: int
    """Evaluations after it, none of which was better."""


class BestCheckpoint:
    """Remembers the best evaluation by ``evaluate.keep_best``, across processes.

    Example, accuracy 0.5, 0.7, 0.6, 0.6 at steps 0, 10, 20, 30 with patience 2: step 10 is the best, and after step 30
    the run has no patience left.
    """

    def __init__(self, config: EvaluateConfig, store: Store, checkpoints: Path, *, step: int) -> None:
        """``step`` is where this life begins; what was measured later belongs to a future that a resume gave up."""
        self._config = config
        self._store = store
        self._checkpoints = checkpoints
        text = store.recall(FACT)
        found = Best(**json.loads(text)) if text and config.keep_best else None
        self.best = found if found is not None and found.step <= step else None

    @property
    def step(self) -> int | None:
        """Step of the best evaluation; None before the first."""
        return self.best.step if self.best else None

    def note(self, step: int, evaluation: Evaluation) -> None:
        """Compare an evaluation with the best one."""
        value = evaluation.value(self._config.keep_best) if self._config.keep_best else None
        if value is None:  # not asked for, or nothing was judged
            return
        # Only better, not as good: of equal checkpoints the earlier one has drifted less.
        if self.best is None or value > self.best.value:
            self.best = Best(step, value, 0)
        elif step != self.best.step:  # the same evaluation again, after a crash
            self.best = Best(self.best.step, self.best.value, self.best.since + 1)
        self._store.remember(FACT, json.dumps(asdict(self.best)))

    def link(self) -> None:
        """Point ``checkpoints/best`` to the checkpoint of the best step, if there is one."""
        if self.best is None or not (self._checkpoints / f"step-{self.best.step}").is_dir():
            return
        # Made beside and renamed: whoever reads the link finds the old one or the new one.
        beside = self._checkpoints / f".{LINK}.partial"
        beside.unlink(missing_ok=True)
        beside.symlink_to(f"step-{self.best.step}")
        beside.rename(self._checkpoints / LINK)

    def why_stop(self, patience: int) -> str:
        """Why training ends, when ``patience`` evaluations in a row brought nothing better; else an empty text."""
        if not patience or self.best is None or self.best.since < patience:
            return ""
        return (
            f"evaluate.{self._config.keep_best} did not rise in {self.best.since} evaluations (evaluate.patience); the "
            f"best was {self.best.value:.4g} at step {self.best.step}"
        )

    def to_json(self) -> dict[str, Any] | None:
        """For the summary."""
        if self.best is None:
            return None
        place = self._checkpoints / f"step-{self.best.step}"
        return {
            "measure": self._config.keep_best,
            "value": self.best.value,
            "step": self.best.step,
            "checkpoint": str(place) if place.is_dir() else None,
        }
