"""GSPO: one ratio a sequence, s = exp(mean over its trainable tokens of l - p), clipped (arXiv:2507.18071).

-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), mean over sequences. The clip drops whole sequences, so
its bounds are orders of magnitude tighter than a token's.
"""

from torch import Tensor

from rlserve.algorithms import metrics, policy_gradient, ratios
from rlserve.algorithms.batch import Denominator, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import num_sequences, sequence_sum, spread
from rlserve.algorithms.policy_gradient import PolicyGradient, Surrogate
from rlserve.config.algorithms.policy_gradient import GspoConfig


class Gspo(PolicyGradient[GspoConfig]):
    """Registered as ``gspo``."""

    proportional = True

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``gspo.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: GspoConfig) -> LossOutput:
    """This micro-batch's share of the loss."""

    def surrogate(log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> Surrogate:
        logs = sequence_log_ratio(log_ratio, batch)
        low = ratios.clipped_low(logs, advantages, config.clip_low)
        high = ratios.clipped_high(logs, advantages, config.clip_high)
        return Surrogate(
            token_loss=ratios.clipped_surrogate(logs, advantages, config.clip_low, config.clip_high),
            metrics={
                "clip_low": metrics.mean(low, batch.loss_mask),
                "clip_high": metrics.mean(high, batch.loss_mask),
            },
        )

    return policy_gradient.loss(outputs, batch, denominator, config, surrogate)


def sequence_log_ratio(log_ratio: Tensor, batch: TokenBatch) -> Tensor:
    """``[B, T] -> [B, T]``: the mean over each sequence's trainable tokens, on each of its tokens."""
    size = num_sequences(batch)
    tokens = sequence_sum(batch.loss_mask, batch.sequence_ids, size).clamp(min=1)
    return spread(sequence_sum(log_ratio, batch.sequence_ids, size) / tokens, batch.sequence_ids)
