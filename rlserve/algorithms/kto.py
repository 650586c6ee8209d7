"""KTO: single completions, each good or bad (arXiv:2402.01306), with a = sum of l - r over the completion.

* good: desirable_weight * (1 - s(beta (a - z))); bad: undesirable_weight * (1 - s(beta (z - a))).
* z = max(0, mean over the batch's completions of the sum of b - r): the sampler's divergence from the reference,
  estimated on its own samples. The paper estimates it on mismatched completions, because its data are not the policy's
  own; here they are, and no second forward pass is needed.
* ``apo_zero_unpaired``: the same with z = 0 (arXiv:2408.06266).

The mean is over all completions of the optimizer batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlserve.algorithms import metrics
from rlserve.algorithms.batch import Assignment, Denominator, GroupOutcome, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import masked_sum, num_sequences, sequence_sum
from rlserve.config.algorithms.preference import KtoConfig
from rlserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Kto:
    """Registered as ``kto``."""

    config: KtoConfig

    @property
    def needs(self) -> frozenset[str]:
        """The reference's log-probabilities, and entropy as a metric."""
        return frozenset({"entropy", "reference_logprobs"})

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """``"no_verdict"`` when no trajectory is scored; groups of equal rewards are trained on."""
        return None if outcome.scored.any() else "no_verdict"

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """One assignment for each scored completion."""
        kept = [(g, m) for g, o in enumerate(outcomes) for m, scored in enumerate(o.scored.tolist()) if scored]
        return [
            Assignment(
                group=group,
                trajectory_index=index,
                preferred=float(outcomes[group].rewards[index]) >= self.config.correct_reward,
                # The mean over completions, decided here: the loss of a micro-batch does not know the number of the
                # whole batch.
                weight=1 / len(kept),
            )
            for group, index in kept
        ]

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share of the loss; z comes from the whole batch's ``denominator.reference_gap``."""
        if batch.preferred is None or batch.weights is None or batch.reference_logprobs is None:
            raise InvalidRequest("reference_logprobs: KTO needs them with preferred and weights; score the batch")
        # A KL is never negative, its estimate on a few samples may be. A float, so that no gradient flows through the
        # baseline, as in the paper.
        z = max(0.0, denominator.reference_gap / max(denominator.sequences, 1.0))
        size, mask, ids = num_sequences(batch), batch.loss_mask, batch.sequence_ids
        # [B, T]
        ratio = torch.where(mask != 0, outputs.logprobs - batch.reference_logprobs, torch.zeros_like(mask))
        tokens = sequence_sum(mask, ids, size)
        here = (tokens > 0).to(mask.dtype)
        # [N]; the value is the same on all tokens of a sequence, so that its mean over them gives it back. Trainable
        # tokens alone, since padding and prompts may carry the fill.
        weight = sequence_sum(mask * batch.weights, ids, size) / tokens.clamp(min=1)
        good = sequence_sum(mask * batch.preferred, ids, size) / tokens.clamp(min=1)
        # [N]; a sum, not a mean: the log-ratio of the whole completion.
        a = sequence_sum(ratio, ids, size)
        losses = sequence_loss(a, good, z, self.config)
        # the second term is 0: it gives a micro-batch without sequences a gradient of zeros
        total = (losses * weight * here).sum() + 0.0 * masked_sum(outputs.logprobs, mask)
        measured = {
            **metrics.off_policy(outputs, batch),
            "baseline_kl": metrics.mean(torch.full_like(here, z), here),
            "good_share": metrics.mean(good, here),
            "reward_chosen": metrics.mean(self.config.beta * a, here * good),
            "reward_rejected": metrics.mean(self.config.beta * a, here * (1 - good)),
        }
        return LossOutput(total, measured)


def sequence_loss(a: Tensor, good: Tensor, baseline: float, config: KtoConfig) -> Tensor:
    """``[N]`` losses of completions with log-ratios ``a``, ``good`` 1 or 0."""
    z = baseline if config.loss == "kto" else 0.0
    desirable = config.desirable_weight * (1 - torch.sigmoid(config.beta * (a - z)))
    undesirable = config.undesirable_weight * (1 - torch.sigmoid(config.beta * (z - a)))
    # 0.5: `good` is a mean of equal float32 values, which rounding may leave a little off 1.
    return torch.where(good > 0.5, desirable, undesirable)
