"""GSPO: one ratio a sequence, s = exp(mean over its trainable tokens of l - p), clipped (arXiv:2507.18071).

-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), mean over sequences. The clip drops whole sequences, so
its bounds are orders of magnitude tighter than a token's.
"""

from torch import Tensor

from rlserve.algorithms.batch import TokenBatch, TokenLoss
from rlserve.algorithms.masked import num_sequences, sequence_sum, spread
from rlserve.algorithms.policy_gradient import PolicyGradient, clipped
from rlserve.config.algorithms.policy_gradient import GspoConfig


class Gspo(PolicyGradient[GspoConfig]):
    """Registered as ``gspo``."""

    proportional = True

    def token_loss(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> TokenLoss:
        """The clipped loss of the token's sequence, on each of its tokens."""
        low, high = self.config.clip_low, self.config.clip_high
        return clipped(sequence_log_ratio(log_ratio, batch), advantages, batch.loss_mask, low, high)


def sequence_log_ratio(log_ratio: Tensor, batch: TokenBatch) -> Tensor:
    """``[B, T] -> [B, T]``: the mean over each sequence's trainable tokens, on each of its tokens."""
    size = num_sequences(batch)
    # [N]; at least 1, for a sequence whose tokens are all masked.
    tokens = sequence_sum(batch.loss_mask, batch.sequence_ids, size).clamp(min=1)
    # The mean in logarithms is the geometric mean of the ratios; its gradient reaches every token of the sequence.
    return spread(sequence_sum(log_ratio, batch.sequence_ids, size) / tokens, batch.sequence_ids)
