"""Off-policy corrections: constants that weigh each token's loss.

With rho the ratio of proximal to behaviour policy, of a token or of a whole sequence (the product over its
trainable tokens). Shapes ``[B, T]``. A sequence ratio discards long sequences first: its spread grows with
length, so watch ``importance_kept`` together with lengths.
"""

import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import num_sequences, sequence_sum, spread
from rlserve.algorithms.ratios import MAX_LOG_RATIO
from rlserve.config.algorithms.policy_gradient import PolicyGradientConfig


def importance_weight(log_rho: Tensor, batch: TokenBatch, config: PolicyGradientConfig) -> Tensor:
    """The weight of each token, from ``log_rho`` ``[B, T]`` (0 under the mask).

    * ``token_truncate`` min(rho, cap); ``token_mask`` rho if floor <= rho <= cap, else 0 (IcePop);
    * ``sequence_truncate`` and ``sequence_mask``: the same of the sequence's rho, on each of its tokens.
    """
    if config.importance == "off":
        return torch.ones_like(log_rho)
    logs = log_rho.detach()
    if config.importance.startswith("sequence"):
        logs = spread(sequence_sum(logs, batch.sequence_ids, num_sequences(batch)), batch.sequence_ids)
    rho = logs.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if config.importance.endswith("truncate"):
        return rho.clamp(max=config.importance_cap)
    inside = (rho >= config.importance_floor) & (rho <= config.importance_cap)
    return torch.where(inside, rho, torch.zeros_like(rho))


def keep_near(policy_logprobs: Tensor, batch: TokenBatch, threshold: float) -> Tensor:
    """0 on sequences with a negative advantage that the policy has left, else 1 (DeepSeek-V3.2 eq. 9).

    Left: the mean over trainable tokens of behaviour less policy log-probability exceeds ``threshold``.
    """
    size, mask = num_sequences(batch), batch.loss_mask
    gap = torch.where(mask != 0, batch.behavior_logprobs - policy_logprobs.detach(), torch.zeros_like(mask))
    tokens = sequence_sum(mask, batch.sequence_ids, size).clamp(min=1)
    mean_gap = spread(sequence_sum(gap, batch.sequence_ids, size) / tokens, batch.sequence_ids)
    return ((batch.advantages >= 0) | (mean_gap <= threshold)).to(mask.dtype)
