"""Verifiable reward, distillation and supervised examples in one batch.

reward_weight * policy-gradient loss + distill_weight * distillation loss + supervised_weight * cross-entropy,
each a mean over its own tokens of the whole optimizer batch: more of one kind does not dilute the others.
Metrics of the parts keep their names under ``reward_`` and ``distill_``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.base import Algorithm, Stateful
from rlserve.algorithms.batch import Assignment, Denominator, GroupOutcome, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import masked_sum
from rlserve.config.algorithms.distillation import MixedConfig


class Mixed:
    """Registered as ``mixed``."""

    def __init__(self, config: MixedConfig) -> None:
        self.config = config
        self._reward: Algorithm | None = registry.create(config.reward) if config.reward else None
        self._distill: Algorithm | None = registry.create(config.distill) if config.distill else None

    @property
    def needs(self) -> frozenset[str]:
        """The needs of all parts, and entropy as a metric."""
        return frozenset({"entropy"}).union(*(part.needs for part in (self._reward, self._distill) if part))

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """The first part's reason, when every part would drop the group."""
        reasons = [part.why_drop(outcome) for part in (self._reward, self._distill) if part]
        has_examples = self.config.supervised_weight > 0 and outcome.supervised is not None
        if None in reasons or (has_examples and bool(outcome.supervised.any())):  # type: ignore[union-attr]
            return None
        return reasons[0] if reasons else "no_example"

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """The reward's assignments, then one for each trajectory that only other parts train."""
        # Groups that the reward would drop stay in the batch for the other parts, but must not enter its baselines.
        kept = [i for i, outcome in enumerate(outcomes) if self._reward and not self._reward.why_drop(outcome)]
        rewarded = self._reward.prepare([outcomes[i] for i in kept]) if self._reward else []
        assignments = [
            # The part numbered the groups of its own list; here they get the numbers of the whole batch. has_gradient
            # is left at True: another part may train a sequence of advantage 0.
            Assignment(group=kept[a.group], trajectory_index=a.trajectory_index, advantage=a.advantage, weight=a.weight)
            for a in rewarded
        ]
        taken = {(a.group, a.trajectory_index) for a in assignments}
        return assignments + [
            Assignment(group=group, trajectory_index=index, trains_policy=False)
            for group, outcome in enumerate(outcomes)
            for index in self._others(outcome)
            if (group, index) not in taken  # the reward's assignment carries the other objectives too
        ]

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share of the weighted sum."""
        # 0, with a graph: under ZeRO every rank must run a backward pass, also on a filler.
        total = 0.0 * masked_sum(outputs.logprobs, batch.loss_mask)
        measured = metrics.off_policy(outputs, batch)
        # sequences that only other parts train do not count in the reward's means
        rewarded = replace(denominator, sequences=float((denominator.tokens_per_sequence > 0).sum()))
        for kind, part, weight in (
            ("reward", self._reward, self.config.reward_weight),
            ("distill", self._distill, self.config.distill_weight),
        ):
            if part is None:
                continue
            out = part.loss(outputs, batch, rewarded)
            total = total + weight * out.loss
            measured |= {
                f"{kind}_{name.removeprefix(f'{kind}_')}": metric
                for name, metric in out.metrics.items()
                # Both parts report the same off-policy metrics; once is enough.
                if name not in measured
            }
            measured[f"{kind}_loss"] = metrics.total(out.loss)
        if self.config.supervised_weight:
            share = supervised_loss(outputs, batch, denominator)
            total = total + self.config.supervised_weight * share
            measured["supervised_loss"] = metrics.total(share)
        return LossOutput(total, measured)

    def state(self) -> dict[str, float]:
        """The reward part's state, for a checkpoint."""
        return self._reward.state() if isinstance(self._reward, Stateful) else {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Undo ``state``."""
        if isinstance(self._reward, Stateful):
            self._reward.restore(state)

    def _others(self, outcome: GroupOutcome) -> list[int]:
        wanted = torch.zeros_like(outcome.scored)
        if self._distill and outcome.taught is not None:
            wanted = wanted | outcome.taught
        if self.config.supervised_weight and outcome.supervised is not None:
            wanted = wanted | outcome.supervised
        return [int(i) for i in torch.nonzero(wanted).flatten()]


def supervised_loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> torch.Tensor:
    """Share of the weighted mean cross-entropy over the supervised objective's tokens."""
    if batch.supervised_mask is None:
        return 0.0 * masked_sum(outputs.logprobs, batch.loss_mask)
    # No importance ratio: the tokens are imitated, whatever sampled them.
    return -masked_sum(outputs.logprobs, batch.supervised_mask) / max(denominator.supervised_tokens, 1.0)
