"""Direct preference optimisation and its kin.

With c and j the log-ratios of policy to reference summed over the chosen and the rejected completion (means
over their tokens when length-normalised) and D = c - j:

* ``sigmoid``  -log s(beta D)                      DPO, arXiv:2305.18290; smoothed: cDPO
* ``hinge``    max(0, 1 - beta D)                  SLiC, arXiv:2305.10425
* ``ipo``      (D - 1 / (2 beta))^2                arXiv:2310.12036, on means as its authors ran it
* ``apo_zero`` 1 - s(beta c) + s(beta j)           arXiv:2408.06266, for chosen better than the policy
* ``apo_down`` s(beta c) + 1 - s(beta D)           the same, for chosen worse than the policy

No importance ratio: any sampler may have made the pairs. The chosen log-probability may fall while D grows:
watch ``logprob_chosen``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlserve.algorithms import measures, metrics, pairs
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    Metric,
    PolicyOutputs,
    TokenBatch,
)
from rlserve.algorithms.masked import masked_sum
from rlserve.algorithms.pair_sums import PairSums, pair_sums
from rlserve.config.algorithms.preference import DpoConfig


@dataclass(frozen=True, slots=True)
class Dpo:
    """Registered as ``dpo``."""

    config: DpoConfig

    @property
    def needs(self) -> frozenset[str]:
        """The reference's log-probabilities, and entropy as a metric."""
        return frozenset({"entropy", "reference_logprobs"})

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """See ``pairs.why_drop``."""
        return pairs.why_drop(outcome, self.config.pairs)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """See ``pairs.prepare``."""
        return pairs.prepare(outcomes, self.config)

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``dpo.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: DpoConfig) -> LossOutput:
    """This micro-batch's share: each pair's loss times its weight, and the chosen completions' NLL."""
    sums = pair_sums(outputs.logprobs, batch, needs_reference=True)
    c, j = sums.chosen - sums.reference_chosen, sums.rejected - sums.reference_rejected
    if config.length_normalized:
        c, j = c / sums.chosen_tokens, j / sums.rejected_tokens
    total = (pair_loss(c, j, config) * sums.weight).sum() + 0.0 * masked_sum(outputs.logprobs, batch.loss_mask)
    if config.nll_coefficient:
        total = total + config.nll_coefficient * chosen_nll(outputs.logprobs, batch, denominator)
    return LossOutput(total, {**measures.off_policy(outputs, batch), **measure(sums, config.beta * c, config.beta * j)})


def pair_loss(c: Tensor, j: Tensor, config: DpoConfig) -> Tensor:
    """``[Q]`` losses of the pairs with log-ratios ``c`` (chosen) and ``j`` (rejected)."""
    beta, delta = config.beta, c - j
    match config.loss:
        case "sigmoid":
            smooth = config.label_smoothing
            return -(1 - smooth) * logsigmoid(beta * delta) - smooth * logsigmoid(-beta * delta)
        case "hinge":
            return torch.relu(1 - beta * delta)
        case "ipo":
            return (delta - 1 / (2 * beta)).square()
        case "apo_zero":
            return 1 - torch.sigmoid(beta * c) + torch.sigmoid(beta * j)
        case "apo_down":
            return torch.sigmoid(beta * c) + 1 - torch.sigmoid(beta * delta)


def chosen_nll(logprobs: Tensor, batch: TokenBatch, denominator: Denominator) -> Tensor:
    """Share of the mean cross-entropy over all trainable tokens of chosen completions."""
    assert batch.preferred is not None
    return -masked_sum(logprobs, batch.loss_mask * batch.preferred) / max(denominator.preferred_tokens, 1.0)


def measure(sums: PairSums, chosen_reward: Tensor, rejected_reward: Tensor) -> dict[str, Metric]:
    """Metrics of a loss on pairs; implicit rewards are ``[Q]``."""
    here = (sums.weight > 0).to(sums.weight.dtype)
    margin = (chosen_reward - rejected_reward).detach()
    return {
        "pairs": metrics.total(here),
        "pair_accuracy": metrics.mean((margin > 0).to(here.dtype), here),
        "margin": metrics.mean(margin, here),
        "reward_chosen": metrics.mean(chosen_reward, here),
        "reward_rejected": metrics.mean(rejected_reward, here),
        "logprob_chosen": metrics.mean(sums.chosen, here),
        "logprob_rejected": metrics.mean(sums.rejected, here),
        "length_chosen": metrics.mean(sums.chosen_tokens, here),
        "length_rejected": metrics.mean(sums.rejected_tokens, here),
    }
