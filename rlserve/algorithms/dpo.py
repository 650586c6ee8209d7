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

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlserve.algorithms.pairs import PairAlgorithm, PairLoss, PairSums
from rlserve.config.algorithms.preference import DpoConfig


class Dpo(PairAlgorithm[DpoConfig]):
    """Registered as ``dpo``."""

    needs_reference = True

    @property
    def nll_coefficient(self) -> float:
        """``algorithm.nll_coefficient``."""
        return self.config.nll_coefficient

    def pair_loss(self, sums: PairSums) -> PairLoss:
        """The loss of each pair's log-ratios, which times beta are the implicit rewards."""
        # [Q] each
        c, j = sums.chosen - sums.reference_chosen, sums.rejected - sums.reference_rejected
        if self.config.length_normalized:
            c, j = c / sums.chosen_tokens, j / sums.rejected_tokens
        return PairLoss(log_ratio_loss(c, j, self.config), self.config.beta * c, self.config.beta * j)


def log_ratio_loss(c: Tensor, j: Tensor, config: DpoConfig) -> Tensor:
    """``[Q]`` losses of pairs with log-ratios ``c`` (chosen) and ``j`` (rejected)."""
    beta, delta = config.beta, c - j
    match config.loss:
        case "sigmoid":
            smooth = config.label_smoothing
            # logsigmoid, not log(sigmoid): it stays finite where the sigmoid underflows.
            return -(1 - smooth) * logsigmoid(beta * delta) - smooth * logsigmoid(-beta * delta)
        case "hinge":
            return torch.relu(1 - beta * delta)
        case "ipo":
            return (delta - 1 / (2 * beta)).square()
        case "apo_zero":
            return 1 - torch.sigmoid(beta * c) + torch.sigmoid(beta * j)
        case "apo_down":
            return torch.sigmoid(beta * c) + 1 - torch.sigmoid(beta * delta)
