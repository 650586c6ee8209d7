"""CISPO: -min(w, max_ratio) A l, the cut ratio a constant (MiniMax-M1, arXiv:2506.13585; ScaleRL).

No token loses its gradient, as a clipped one would; no lower bound. ``max_ratio`` bounds the ratio itself:
other code bases pass 1 + epsilon here.
"""

from torch import Tensor

from rlserve.algorithms import metrics
from rlserve.algorithms.batch import TokenBatch, TokenLoss
from rlserve.algorithms.policy_gradient import PolicyGradient
from rlserve.config.algorithms.policy_gradient import CispoConfig


class Cispo(PolicyGradient[CispoConfig]):
    """Registered as ``cispo``."""

    proportional = True

    def token_loss(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> TokenLoss:
        """The log-probability weighted by advantage and cut ratio, and how often the ratio is cut."""
        # [B, T]; detached: the ratio weighs the gradient of log l and has none of its own, which is what keeps cut
        # tokens in the update.
        ratio = log_ratio.detach().exp()
        cut = (ratio > self.config.max_ratio).to(ratio.dtype)
        token_loss = -ratio.clamp(max=self.config.max_ratio) * advantages * logprobs
        return token_loss, {"ratio_cut": metrics.mean(cut, batch.loss_mask)}
