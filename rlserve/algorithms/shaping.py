"""Rewards adjusted before they are compared. Shape letter: G members of a group."""

from torch import Tensor


def overlong_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """Between 0 and -1, to be added to the reward, ``[G] -> [G]`` (DAPO eq. 13, arXiv:2503.14476).

    0 up to ``limit - buffer`` tokens, then linear to -1 at ``limit``, -1 beyond. ``buffer`` >= 1.
    """
    excess = lengths.double() - (limit - buffer)
    return -(excess / buffer).clamp(0.0, 1.0)
