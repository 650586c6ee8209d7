"""ORPO: NLL of the chosen completion - coefficient * log s(log-odds), without a reference (arXiv:2403.07691).

log-odds = (a_c - a_j) - (log(1 - e^a_c) - log(1 - e^a_j)), with a the mean log-probability of a completion's
tokens. The NLL is a mean over all trainable tokens of chosen completions of the optimizer batch.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlserve.algorithms import metrics
from rlserve.algorithms.pairs import PairAlgorithm, PairLoss, PairSums
from rlserve.config.algorithms.preference import OrpoConfig

NEARLY_CERTAIN = -1e-6
"""Mean log-probabilities above this are cut: log(1 - e^0) is infinite."""


class Orpo(PairAlgorithm[OrpoConfig]):
    """Registered as ``orpo``."""

    @property
    def nll_coefficient(self) -> float:
        """1: the cross-entropy is the loss, the odds ratio stands beside it."""
        return 1.0

    def pair_loss(self, sums: PairSums) -> PairLoss:
        """The odds-ratio term of each pair."""
        coefficient = self.config.coefficient
        # [Q] means: an odds ratio of sums would be one of probabilities near 0, where odds and probability are the
        # same.
        chosen, rejected = sums.chosen / sums.chosen_tokens, sums.rejected / sums.rejected_tokens
        odds = log_odds_ratio(chosen, rejected)
        measured = {"log_odds": metrics.mean(odds, (sums.weight > 0).to(odds.dtype))}
        return PairLoss(-coefficient * logsigmoid(odds), coefficient * chosen, coefficient * rejected, measured)


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Log of the odds ratio, from mean token log-probabilities, ``[Q] -> [Q]``."""
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact on both sides of -log 2."""
    x, half = x.clamp(max=NEARLY_CERTAIN), -math.log(2)
    # each branch sees only its own half: the gradient of a discarded infinity is not a number
    near, far = x.clamp(min=half), x.clamp(max=half)
    return torch.where(x > half, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
