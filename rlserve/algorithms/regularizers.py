"""Terms beside the policy's own: divergence from a reference, entropy, log-partition.

Each returns this micro-batch's share: weights come from ``masked.token_weights``. Shapes are ``[B, T]``.
"""

import torch
from torch import Tensor

from rlserve.algorithms.masked import masked_sum

MAX_KL_LOG_RATIO = 10.0
"""Log-ratios to the reference are cut here: exp(10) is 22026, and one such token would outweigh the whole batch."""


def reference_log_ratio(policy_logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """d = l - r, 0 under the mask."""
    # [B, T]
    difference = torch.where(mask != 0, policy_logprobs - reference_logprobs, torch.zeros_like(policy_logprobs))
    return difference.clamp(-MAX_KL_LOG_RATIO, MAX_KL_LOG_RATIO)


def kl(log_ratio: Tensor, estimator: str, behavior_log_ratio: Tensor) -> Tensor:
    """Token estimates of KL(policy || reference) at sampled tokens, from d = ``log_ratio``.

    Differentiated with samples fixed, on policy, the expected gradient is (Schulman 2020; arXiv:2506.09477)

    * ``k1`` d: 0;
    * ``k2`` d^2 / 2: that of the reverse divergence;
    * ``k3`` exp(-d) - 1 + d: that of the forward divergence;
    * ``k3_unbiased`` w k3 with w = exp(``behavior_log_ratio``): that of the reverse one, off policy too.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    k3 = torch.expm1(-log_ratio) + log_ratio  # expm1: exp(-d) - 1 loses all digits near d = 0
    return behavior_log_ratio.exp() * k3 if estimator == "k3_unbiased" else k3


def entropy_bonus(entropy: Tensor, weights: Tensor) -> Tensor:
    """The negative of the mean token entropy, to be minimised."""
    return -masked_sum(entropy, weights)


def z_loss(log_partition: Tensor, weights: Tensor) -> Tensor:
    """Mean of the squared log-partition, (log sum exp z)^2 (PaLM, arXiv:2204.02311)."""
    return masked_sum(log_partition.square(), weights)
