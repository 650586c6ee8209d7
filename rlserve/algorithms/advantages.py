"""Advantages: a completion's reward against those of the same task.

Shape letter: G members of one group. ``scored`` is False where there is no verdict: such a member enters no
mean and no deviation, and its advantage is 0. Fewer than two scored members compare with nothing: all 0.
"""

import torch
from torch import Tensor

VARIANCE_TOLERANCE = 1e-8
"""Rewards that differ by no more than this are equal."""


def group_mean(rewards: Tensor, scored: Tensor) -> Tensor:
    """Reward minus the group's mean, ``[G] -> [G]`` (Dr. GRPO, arXiv:2503.20783)."""
    count = scored.sum()
    if count < 2:
        return torch.zeros_like(rewards)
    return _only(scored, rewards - _only(scored, rewards).sum() / count)


def group_std(rewards: Tensor, scored: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Centred reward over (sample standard deviation + epsilon), ``[G] -> [G]`` (GRPO, arXiv:2402.03300)."""
    centred = group_mean(rewards, scored)
    count = scored.sum()
    if count < 2:
        return centred
    return centred / ((centred.square().sum() / (count - 1)).sqrt() + epsilon)


def leave_one_out(rewards: Tensor, scored: Tensor) -> Tensor:
    """Reward minus the mean of the other scored members, ``[G] -> [G]`` (RLOO, arXiv:2402.14740).

    Equals ``group_mean`` times n / (n - 1), n scored members.
    """
    count = int(scored.sum())
    return group_mean(rewards, scored) * (count / (count - 1) if count > 1 else 0.0)


def is_zero_variance(rewards: Tensor, scored: Tensor) -> bool:
    """Whether all scored rewards are equal. For rewards as verified, before any shaping by length."""
    values = rewards[scored]
    return values.numel() == 0 or float(values.max() - values.min()) <= VARIANCE_TOLERANCE


def _only(scored: Tensor, values: Tensor) -> Tensor:
    return torch.where(scored, values, torch.zeros_like(values))
