"""Importance ratios between policies, the corrections made of them, and how far apart the policies are.

With l the log-probability in training, b the behaviour's and p the proximal's, all of the sampled token:
w = exp(l - b), rho = exp(p - b). Shapes are ``[B, T]``; ``mask`` is 1 on trainable tokens.

A correction is a constant that weighs each token's loss, from rho of the token or of its whole sequence (the product
over its trainable tokens). A sequence ratio discards long sequences first: its spread grows with length, so watch
``importance_kept`` together with lengths.
"""

import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import num_sequences, sequence_sum, spread
from rlserve.config.algorithms.policy_gradient import PolicyGradientConfig

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut here: exp overflows float32 at 88, and infinity times a zero gradient is NaN."""


def log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """Log of the ratio of two policies' probabilities; 0 under the mask, cut at +-MAX_LOG_RATIO."""
    # where, not a product: under the mask either side may be infinite, and infinity times 0 is NaN
    difference = torch.where(mask != 0, numerator - denominator, torch.zeros_like(numerator))
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def truncated(log_ratios: Tensor, cap: float) -> Tensor:
    """min(rho, cap) as a constant: truncated importance sampling."""
    return log_ratios.detach().exp().clamp(max=cap)


def clipped_surrogate(
    log_ratios: Tensor, advantages: Tensor, clip_low: float, clip_high: float, *, dual: float = 0.0
) -> Tensor:
    """-min(w A, clip(w, 1 - clip_low, 1 + clip_high) A) (PPO; clip-higher of DAPO, arXiv:2503.14476).

    No gradient exactly where A > 0 and w > 1 + clip_high, or A < 0 and w < 1 - clip_low; and, with ``dual``
    above 0, where A < 0 and w > dual (INTELLECT-2, arXiv:2505.07291).
    """
    ratio = log_ratios.exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    # Bounds the loss of an unlikely token with A < 0, whose ratio the clip leaves unbounded above.
    if dual:
        ratio = ratio.clamp(max=dual)
    # the minimum is the pessimistic one: a bound stops a gain, never a loss
    return -torch.minimum(ratio * advantages, bounded * advantages)


def clipped_low(log_ratios: Tensor, advantages: Tensor, clip_low: float) -> Tensor:
    """1.0 where the lower bound stops the gradient."""
    return ((log_ratios.detach().exp() < 1 - clip_low) & (advantages < 0)).to(log_ratios.dtype)


def clipped_high(log_ratios: Tensor, advantages: Tensor, clip_high: float) -> Tensor:
    """1.0 where the upper bound stops the gradient."""
    return ((log_ratios.detach().exp() > 1 + clip_high) & (advantages > 0)).to(log_ratios.dtype)


def k3(log_ratios: Tensor) -> Tensor:
    """w - 1 - log w, never negative. Under samples of b its mean is KL(b || l) (Schulman, 2020)."""
    return log_ratios.expm1() - log_ratios  # expm1: exp(x) - 1 loses all digits near on-policy ratios of 1


def effective_sample_size(ratios: Tensor, mask: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the n masked entries, in (0, 1] (PipelineRL, arXiv:2509.19128).

    Of the ratios as they are, before any truncation; 1 on policy. An empty mask gives 0.
    """
    weights = ratios * mask
    total = mask.sum() * weights.square().sum()
    return weights.sum().square() / total.clamp(min=1e-30)  # any value above 0 will do: the numerator is 0 then


def importance_weight(log_rho: Tensor, batch: TokenBatch, config: PolicyGradientConfig) -> Tensor:
    """The weight of each token, from ``log_rho`` ``[B, T]`` (0 under the mask).

    * ``token_truncate`` min(rho, cap); ``token_mask`` rho if floor <= rho <= cap, else 0 (IcePop);
    * ``sequence_truncate`` and ``sequence_mask``: the same of the sequence's rho, on each of its tokens.
    """
    if config.importance == "off":
        return torch.ones_like(log_rho)
    logs = log_rho.detach()  # a constant: it weighs the gradient, and has none
    if config.importance.startswith("sequence"):
        # The product of the ratios, as a sum of logarithms; a product of hundreds of them would leave float32's range.
        logs = spread(sequence_sum(logs, batch.sequence_ids, num_sequences(batch)), batch.sequence_ids)
    rho = logs.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if config.importance.endswith("truncate"):
        return rho.clamp(max=config.importance_cap)
    inside = (rho >= config.importance_floor) & (rho <= config.importance_cap)
    return torch.where(inside, rho, torch.zeros_like(rho))


def keep_near(policy_logprobs: Tensor, batch: TokenBatch, threshold: float) -> Tensor:
    """0 on sequences with a negative advantage that the policy has left, else 1 (DeepSeek-V3.2 eq. 9).

    The policy has left a sequence when the mean over its trainable tokens of behaviour less policy log-probability
    exceeds ``threshold``.
    """
    size, mask = num_sequences(batch), batch.loss_mask
    # [B, T]; the k1 estimate of KL(behaviour || policy) on the behaviour's samples
    gap = torch.where(mask != 0, batch.behavior_logprobs - policy_logprobs.detach(), torch.zeros_like(mask))
    tokens = sequence_sum(mask, batch.sequence_ids, size).clamp(min=1)
    mean_gap = spread(sequence_sum(gap, batch.sequence_ids, size) / tokens, batch.sequence_ids)
    # Positive ones are kept: negative samples that are far off policy are the ones that destabilise (DeepSeek-V3.2).
    return ((batch.advantages >= 0) | (mean_gap <= threshold)).to(mask.dtype)
