"""``[reference]``: the model from which divergence is measured."""

from pydantic import Field, model_validator

from rlserve.config.base import Section


class ReferenceConfig(Section):
    """The reference model: algorithms that need one measure the policy's divergence from it."""

    teacher: str = ""
    """Name of the teacher that serves it. Empty: a copy of the start checkpoint on each learner rank."""
    refresh_every_syncs: int = Field(0, ge=0)
    """Weight syncs after which the current policy becomes the reference; 0 keeps it frozen."""

    @model_validator(mode="after")
    def _a_served_one_is_frozen(self) -> "ReferenceConfig":
        # A teacher serves a fixed checkpoint; it has no way to receive the learner's weights.
        if self.teacher and self.refresh_every_syncs:
            raise ValueError(
                f"reference.refresh_every_syncs: is {self.refresh_every_syncs}, but the served reference "
                f"{self.teacher!r} never changes; set it to 0, or leave out reference.teacher"
            )
        return self
