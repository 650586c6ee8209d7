"""What a receiver of groups accepts at most."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """Bounds of one group; None means "not checked"."""

    vocab_size: int | None = None
    """Token ids must be below this."""
    max_tokens: int | None = None
    """Tokens of one trajectory, prompt and completion together."""
    max_trajectories: int | None = None
