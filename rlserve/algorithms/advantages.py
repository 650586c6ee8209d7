"""Advantages: a completion's reward against those of the same task.

Shape letter: G trajectories of one group. A trajectory without a verdict (``scored`` is False) enters no mean and no
deviation, and its advantage is 0. With fewer than two scored ones there is nothing to compare: all advantages are 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

VARIANCE_TOLERANCE = 1e-8
"""Rewards that differ by no more than this are equal: far below any step of a reward, far above rounding in float64."""


def group_mean(rewards: Tensor, scored: Tensor) -> Tensor:
    """Reward minus the group's mean, ``[G] -> [G]`` (Dr. GRPO, arXiv:2503.20783)."""
    count = scored.sum()
    if count < 2:
        return torch.zeros_like(rewards)
    # [G]; masked before the sum and after the difference: an unscored trajectory has reward 0, which is no measurement.
    return _only(scored, rewards - _only(scored, rewards).sum() / count)


def group_std(rewards: Tensor, scored: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Centred reward over (sample standard deviation + epsilon), ``[G] -> [G]`` (GRPO, arXiv:2402.03300)."""
    centred = group_mean(rewards, scored)
    count = scored.sum()
    if count < 2:
        return centred
    # masked trajectories are 0 in centred, so the sum is over scored ones alone; the sample deviation, as in TRL
    return centred / ((centred.square().sum() / (count - 1)).sqrt() + epsilon)


def leave_one_out(rewards: Tensor, scored: Tensor) -> Tensor:
    """Reward minus the mean of the other scored trajectories, ``[G] -> [G]`` (RLOO, arXiv:2402.14740).

    Equals ``group_mean`` times n / (n - 1), n scored trajectories.
    """
    count = int(scored.sum())
    return group_mean(rewards, scored) * (count / (count - 1) if count > 1 else 0.0)


def batch_deviation(rewards: Tensor) -> Tensor:
    """Sample standard deviation of all scored rewards of the batch, ``[n] -> []``; 0 for fewer than two."""
    return rewards.std() if rewards.numel() > 1 else rewards.new_zeros(())


def batch_std(rewards: Tensor, scored: Tensor, deviation: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Centred reward over (``batch_deviation`` + epsilon), ``[G] -> [G]``.

    The deviation is of the rewards themselves, not of the centred ones (arXiv:2508.08221).
    """
    # [G] / []
    return group_mean(rewards, scored) / (deviation + epsilon)


def max_rl(rewards: Tensor, scored: Tensor) -> Tensor:
    """Centred reward over the group's mean, ``[G] -> [G]``; rewards >= 0, and all 0 when the mean is.

    Weighs a task of success rate p by 1 / p: the gradient of the mean log success rate, to first order.
    """
    centred = group_mean(rewards, scored)
    mean = _only(scored, rewards).sum() / scored.sum().clamp(min=1)
    # No success at all: there is nothing to weigh, and 0 / 0 would be NaN.
    return centred / mean if mean > 0 else torch.zeros_like(centred)


def running_baseline(rewards: Tensor, scored: Tensor, baseline: float) -> Tensor:
    """Reward minus a baseline from earlier batches, ``[G] -> [G]`` (REINFORCE)."""
    return _only(scored, rewards - baseline)


def next_baseline(baseline: float | None, batch_mean: float, decay: float) -> float:
    """The running baseline after a batch; the first batch sets it."""
    return batch_mean if baseline is None else decay * baseline + (1 - decay) * batch_mean


def is_zero_variance(rewards: Sequence[float]) -> bool:
    """Whether all scored rewards of a group are equal, as verified, before any shaping by length."""
    return not rewards or max(rewards) - min(rewards) <= VARIANCE_TOLERANCE


def _only(scored: Tensor, values: Tensor) -> Tensor:
    # where, not a product: an unscored entry that is NaN stays out.
    return torch.where(scored, values, torch.zeros_like(values))
