"""Pipeline GRPO: clipped policy gradient on the log-probabilities recorded when the tokens were sampled.

-min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), with w = exp(l - b) when each batch serves one optimizer
step. GRPO: arXiv:2402.03300; clip-higher and token mean: DAPO, arXiv:2503.14476. Dr. GRPO
(arXiv:2503.20783) is ``advantage = "group_mean"``, ``averaging = "constant"``.
"""

from torch import Tensor

from rlserve.algorithms import metrics, policy_gradient, ratios
from rlserve.algorithms.batch import Denominator, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.policy_gradient import PolicyGradient, Surrogate
from rlserve.config.algorithms.policy_gradient import GrpoConfig


class Grpo(PolicyGradient[GrpoConfig]):
    """Registered as ``grpo``."""

    proportional = True

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``grpo.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: GrpoConfig) -> LossOutput:
    """This micro-batch's share of the loss."""

    def surrogate(log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> Surrogate:
        low = ratios.clipped_low(log_ratio, advantages, config.clip_low)
        high = ratios.clipped_high(log_ratio, advantages, config.clip_high)
        return Surrogate(
            token_loss=ratios.clipped_surrogate(
                log_ratio, advantages, config.clip_low, config.clip_high, dual=config.dual_clip
            ),
            metrics={
                "clip_low": metrics.mean(low, batch.loss_mask),
                "clip_high": metrics.mean(high, batch.loss_mask),
            },
        )

    return policy_gradient.loss(outputs, batch, denominator, config, surrogate)
