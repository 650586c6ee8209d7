"""Plain REINFORCE: -c A l, c a constant correction of policy over behaviour.

``importance = "off"`` sets c = 1, which is right on policy only. With ``token_truncate`` the loss is CISPO's.
Several steps per batch need no proximal log-probabilities: the correction is from the behaviour policy to
the one in training, whatever lies between.
"""

from torch import Tensor

from rlserve.algorithms import metrics, ratios
from rlserve.algorithms.batch import TokenBatch, TokenLoss
from rlserve.algorithms.policy_gradient import PolicyGradient
from rlserve.config.algorithms.policy_gradient import ReinforceConfig


class Reinforce(PolicyGradient[ReinforceConfig]):
    """Registered as ``reinforce``."""

    proportional = True
    ratio_to_behavior = True

    def token_loss(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> TokenLoss:
        """The log-probability weighted by advantage and correction, and the correction's mean."""
        # [B, T], a constant
        weight = ratios.importance_weight(log_ratio, batch, self.config)
        return -weight * advantages * logprobs, {"correction_mean": metrics.mean(weight, batch.loss_mask)}
