"""ORPO: NLL of the chosen completion - coefficient * log s(log-odds), without a reference (arXiv:2403.07691).

log-odds = (a_c - a_j) - (log(1 - e^a_c) - log(1 - e^a_j)), with a the mean log-probability of a completion's
tokens. The NLL is a mean over all trainable tokens of chosen completions of the optimizer batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlserve.algorithms import dpo, measures, metrics, pairs
from rlserve.algorithms.batch import Assignment, Denominator, GroupOutcome, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.pair_sums import pair_sums
from rlserve.config.algorithms.preference import OrpoConfig

NEARLY_CERTAIN = -1e-6
"""Mean log-probabilities above this are cut: log(1 - e^0) is infinite."""


@dataclass(frozen=True, slots=True)
class Orpo:
    """Registered as ``orpo``."""

    config: OrpoConfig

    @property
    def needs(self) -> frozenset[str]:
        """Entropy, as a metric."""
        return frozenset({"entropy"})

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """See ``pairs.why_drop``."""
        return pairs.why_drop(outcome, self.config.pairs)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """See ``pairs.prepare``."""
        return pairs.prepare(outcomes, self.config)

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``orpo.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: OrpoConfig) -> LossOutput:
    """This micro-batch's share of the loss."""
    sums = pair_sums(outputs.logprobs, batch, needs_reference=False)
    chosen, rejected = sums.chosen / sums.chosen_tokens, sums.rejected / sums.rejected_tokens
    odds = log_odds_ratio(chosen, rejected)
    ratio_term = -(logsigmoid(odds) * sums.weight).sum()
    total = dpo.chosen_nll(outputs.logprobs, batch, denominator) + config.coefficient * ratio_term
    measured = dpo.measure(sums, config.coefficient * chosen, config.coefficient * rejected)
    here = (sums.weight > 0).to(odds.dtype)
    return LossOutput(total, {**measures.off_policy(outputs, batch), **measured, "log_odds": metrics.mean(odds, here)})


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Of mean token log-probabilities ``[Q]``."""
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact on both sides of -log 2."""
    x = x.clamp(max=NEARLY_CERTAIN)
    # each branch sees only its own half: the gradient of a discarded infinity is no number
    near, far = x.clamp(min=-0.6931), x.clamp(max=-0.6931)
    return torch.where(x > -0.6931, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
