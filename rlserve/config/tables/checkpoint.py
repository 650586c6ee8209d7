"""``[checkpoint]``: what is kept on disk."""

from pydantic import Field

from rlserve.config.base import Section


class CheckpointConfig(Section):
    """Checkpoints on disk."""

    every_steps: int = Field(50, ge=0)
    """Steps between checkpoints; 0 keeps only the last."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""
