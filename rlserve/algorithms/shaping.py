"""Rewards adjusted before they are compared. Shape letter: G members of a group."""

import torch
from torch import Tensor


def overlong_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """Between 0 and -1, to be added to the reward, ``[G] -> [G]`` (DAPO eq. 13, arXiv:2503.14476).

    0 up to ``limit - buffer`` tokens, then linear to -1 at ``limit``, -1 beyond. ``buffer`` >= 1.
    """
    excess = lengths.double() - (limit - buffer)
    return -(excess / buffer).clamp(0.0, 1.0)


def length_penalty(rewards: Tensor, scored: Tensor, lengths: Tensor, weight: float) -> Tensor:
    """Rewards less the group's mean times weight times length over the longest, ``[G] -> [G]``.

    In proportion to the mean, so that it fades where a task is rarely solved and every success counts.
    """
    mean = torch.where(scored, rewards, torch.zeros_like(rewards)).sum() / scored.sum().clamp(min=1)
    return rewards - mean * weight * lengths / lengths.max().clamp(min=1)
