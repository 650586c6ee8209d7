"""Handles a batch whose loss or gradient is not finite: finds, names and drops the groups that cause it.

The engine skipped the step, so weights and optimizer are unchanged. For each group alone the gradient of its loss by
the policy's outputs is computed. A group for which that is not finite, or larger than any sound loss has, is dropped
for good as ``not_finite``; the others are trained on with the next batch. When no single group is at fault the whole
batch is dropped. A group that the algorithm cannot prepare is dropped as ``algorithm_failed``.

When MAX_LOST_IN_A_ROW batches in a row are dropped whole, the run ends.
"""

import logging
import math
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.actors.learner.ingest.group_queue import GroupQueue
from rlserve.actors.learner.train.engine import StepReport
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.batching.collate import BatchLayout, collate
from rlserve.errors import LimitExceeded, PluginFailed
from rlserve.observability.warner import Warner
from rlserve.records import RolloutGroup

logger = logging.getLogger(__name__)

NOT_FINITE = "not_finite"
UNREADY = "algorithm_failed"
MAX_LOST_IN_A_ROW = 3
"""One whole batch may be an accident; three are a broken verifier or a policy that diverged."""
MAX_OUTPUT_GRADIENT = 1e12
"""A sound loss's gradient by the policy's outputs is of the order of 1; a float32 gradient overflows from 1e19 on."""
SHOWN_GROUPS, SHOWN_REWARDS = 3, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A batch that was not trained on, or only in part."""

    groups: Sequence[RolloutGroup]
    culprits: Sequence[RolloutGroup]
    """Those at fault; empty when no single one is."""

    @property
    def dropped(self) -> Sequence[RolloutGroup]:
        """Groups that are not tried again."""
        return self.culprits or self.groups


class PoisonGuard:
    """Drops the groups that make a loss not finite.

    Example: of groups a, b, c the reward of b is 1e30. ``drop`` discards b, puts a and c back in the queue, and warns.
    """

    def __init__(self, trainer: Trainer, layout: BatchLayout, queue: GroupQueue, warn: Warner) -> None:
        self._trainer = trainer
        self._layout = layout
        self._queue = queue
        self._warn = warn
        self._lost_in_a_row = 0

    def stepped(self) -> None:
        """A batch was trained on."""
        self._lost_in_a_row = 0

    def drop(self, step: int, groups: Sequence[RolloutGroup], report: StepReport) -> None:
        """No update was made of the batch taken for ``step``: drop the groups at fault for good, put the others back.

        Raises LimitExceeded that names the culprits when the run cannot go on.
        """
        skipped = self._judge(step, groups)
        # When all groups look at fault it is rather the policy. One of them shows that: weights that are not finite
        # spare none.
        if len(skipped.culprits) == len(groups) and not self._policy_is_sound(groups[0], step):
            raise LimitExceeded(
                f"step {step}: the policy itself gives log-probabilities that are not finite, for any group; start "
                "from a sound model, or resume from an earlier checkpoint"
            )
        dropped = {group.group_id for group in skipped.dropped}
        # step=None makes it final: a resumed run would take the same groups again and fail at the same step.
        self._queue.drop(sorted(dropped), NOT_FINITE, step=None)
        self._queue.put_back([group.group_id for group in groups if group.group_id not in dropped])
        self._say(step, skipped, report, "the step is made without")
        self._lost_in_a_row = self._lost_in_a_row + 1 if len(dropped) == len(groups) else 0
        if self._lost_in_a_row == MAX_LOST_IN_A_ROW:
            raise LimitExceeded(_hopeless(step, skipped, report))

    def drop_unready(self, step: int, groups: Sequence[RolloutGroup], error: Exception) -> None:
        """No batch could be made of the groups taken for ``step``: the algorithm raised ``error``.

        Those that it cannot prepare alone are dropped for good. Raises PluginFailed when it can prepare all, or none.
        """
        memory = self._trainer.algorithm_state()
        culprits = [group for group in groups if self._raises(group, step)]
        self._trainer.restore_algorithm(memory)
        cause = f"{type(error).__name__}: {error}"
        if len(culprits) in (0, len(groups)):
            whose = "any group" if culprits else "the batch, and no group of it alone"
            raise PluginFailed(f"algorithm: cannot prepare {whose} ({cause}); fix it and resume") from error
        dropped = [group.group_id for group in culprits]
        self._queue.drop(dropped, UNREADY, step=None)
        self._queue.put_back([group.group_id for group in groups if group.group_id not in dropped])
        self._warn(
            f"step {step}: the algorithm cannot prepare {_described(culprits)}: {cause}; dropped ({UNREADY}), the step "
            "is made without",
            cause=f"{UNREADY}: {cause}",
            groups=dropped,
            traceback="".join(traceback.format_exception(error)),
        )

    def drop_part(self, step: int, groups: Sequence[RolloutGroup], report: StepReport) -> list[str]:
        """Some updates of ``step`` were made: drop what spoiled the others; returns the ids of what was trained on.

        The drop belongs to the step: where a resumed run makes that again, it makes the same of it.
        """
        skipped = self._judge(step, groups)
        dropped = [group.group_id for group in skipped.culprits]
        if dropped:
            self._queue.drop(dropped, NOT_FINITE, step=step)
        self._say(step, skipped, report, "part of the step was made without")
        return [group.group_id for group in groups if group.group_id not in dropped]

    def _judge(self, step: int, groups: Sequence[RolloutGroup]) -> Skipped:
        # Trying groups alone prepares them again, which may change what the algorithm remembers.
        memory = self._trainer.algorithm_state()
        culprits = [group for group in groups if self._is_poisonous(group, step)]
        self._trainer.restore_algorithm(memory)
        return Skipped(groups=groups, culprits=culprits)

    def _is_poisonous(self, group: RolloutGroup, step: int) -> bool:
        try:
            batch = collate([group], self._trainer.algorithm, self._layout, step - 1)
        except Exception:  # a batch of it alone may be no batch; that of all of them was
            return False
        norm = self._trainer.output_gradient_norm(batch)
        return not math.isfinite(norm) or norm > MAX_OUTPUT_GRADIENT

    def _raises(self, group: RolloutGroup, step: int) -> bool:
        try:
            collate([group], self._trainer.algorithm, self._layout, step - 1)
        # Swallowed: the caller reports the error that the whole batch raised.
        except Exception:
            return True
        return False

    def _policy_is_sound(self, group: RolloutGroup, step: int) -> bool:
        return self._trainer.has_finite_logprobs(collate([group], self._trainer.algorithm, self._layout, step - 1))

    def _say(self, step: int, skipped: Skipped, report: StepReport, what_next: str) -> None:
        numbers = f"step {step}: loss {report.loss:g}, gradient norm {report.grad_norm:g}"
        if skipped.culprits:
            who = f"{_described(skipped.culprits)}: dropped (not_finite), {what_next}"
        else:
            who = f"none of its {len(skipped.groups)} groups is at fault alone: all are dropped, {what_next} them"
        source = sorted({f"{g.worker_id}/{g.task.verifier}" for g in skipped.culprits})
        self._warn(
            f"{numbers}; {who}",
            cause=f"{NOT_FINITE}: {', '.join(source)}",
            groups=[group.group_id for group in skipped.culprits],
        )


def _hopeless(step: int, skipped: Skipped, report: StepReport) -> str:
    what = (
        f"step {step}: nothing was left of {MAX_LOST_IN_A_ROW} batches in a row, whose loss or gradient is not finite "
        f"(last: loss {report.loss:g}, gradient norm {report.grad_norm:g})"
    )
    if not skipped.culprits:
        return (
            f"{what}, and no group is at fault alone: the policy itself has diverged. Lower learner.lr and go on from "
            "the last checkpoint"
        )
    (verifier, _), *_ = Counter(group.task.verifier for group in skipped.culprits).most_common(1)
    return (
        f"{what}. Every group is at fault, as are {_described(skipped.culprits)}. Fix the verifier {verifier!r}, or "
        "the algorithm, and go on from the last checkpoint"
    )


def _described(groups: Sequence[RolloutGroup]) -> str:
    shown = "; ".join(_describe(group) for group in groups[:SHOWN_GROUPS])
    more = len(groups) - SHOWN_GROUPS
    return shown + (f"; and {more} more" if more > 0 else "")


def _describe(group: RolloutGroup) -> str:
    rewards = [f"{t.verdict.reward:g}" for t in group.scored() if t.verdict is not None]
    shown = ", ".join(rewards[:SHOWN_REWARDS]) + (", ..." if len(rewards) > SHOWN_REWARDS else "")
    return (
        f"group {group.group_id} of {group.worker_id} (environment {group.task.environment}, verifier "
        f"{group.task.verifier}, rewards {shown or 'none'})"
    )
