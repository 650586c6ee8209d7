"""Pipeline GRPO: clipped policy gradient on the log-probabilities recorded when the tokens were sampled.

-min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), with w = exp(l - b) when each batch serves one optimizer
step. GRPO: arXiv:2402.03300; clip-higher and token mean: DAPO, arXiv:2503.14476. Dr. GRPO
(arXiv:2503.20783) is ``advantage = "group_mean"``, ``averaging = "constant"``.
"""

from torch import Tensor

from rlserve.algorithms.batch import TokenBatch, TokenLoss
from rlserve.algorithms.policy_gradient import PolicyGradient, clipped
from rlserve.config.algorithms.policy_gradient import GrpoConfig


class Grpo(PolicyGradient[GrpoConfig]):
    """Registered as ``grpo``."""

    proportional = True

    def token_loss(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> TokenLoss:
        """The clipped loss, with a second upper bound for A < 0 when ``dual_clip`` is set."""
        low, high = self.config.clip_low, self.config.clip_high
        return clipped(log_ratio, advantages, batch.loss_mask, low, high, dual=self.config.dual_clip)
