"""Importance ratios between policies, and what they say about how far apart these are.

With l the log-probability in training, b the behaviour's and p the proximal's, all of the sampled token:
w = exp(l - b), rho = exp(p - b). Shapes are ``[B, T]``; ``mask`` is 1 on trainable tokens.
"""

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut here: exp overflows float32 at 88, and infinity times a zero gradient is no number."""


def log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """Log of the ratio of two policies' probabilities; 0 under the mask, cut at +-MAX_LOG_RATIO."""
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
    if dual:
        ratio = ratio.clamp(max=dual)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def clipped_low(log_ratios: Tensor, advantages: Tensor, clip_low: float) -> Tensor:
    """1.0 where the lower bound stops the gradient."""
    return ((log_ratios.detach().exp() < 1 - clip_low) & (advantages < 0)).to(log_ratios.dtype)


def clipped_high(log_ratios: Tensor, advantages: Tensor, clip_high: float) -> Tensor:
    """1.0 where the upper bound stops the gradient."""
    return ((log_ratios.detach().exp() > 1 + clip_high) & (advantages > 0)).to(log_ratios.dtype)


def k3(log_ratios: Tensor) -> Tensor:
    """w - 1 - log w, never negative. Under samples of b its mean is KL(b || l) (Schulman, 2020)."""
    return log_ratios.expm1() - log_ratios


def effective_sample_size(ratios: Tensor, mask: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the n masked entries, in (0, 1] (PipelineRL, arXiv:2509.19128).

    Of the ratios as they are, before any truncation; 1 on policy. An empty mask gives 0.
    """
    weights = ratios * mask
    total = mask.sum() * weights.square().sum()
    return weights.sum().square() / total.clamp(min=1e-30)
