"""The largest group that a receiver accepts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """Bounds of one group; a bound of None is not checked."""

    vocab_size: int | None = None
    """Token ids must be below this."""
    max_tokens: int | None = None
    """Most tokens of one trajectory, prompt and completion together."""
    max_trajectories: int | None = None
