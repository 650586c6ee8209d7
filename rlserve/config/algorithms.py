"""One section per algorithm, discriminated by ``type``; the class defaults are the vetted setting."""

from typing import Literal

from pydantic import Field, model_validator

from rlserve.config.base import Section


class GrpoConfig(Section):
    """Pipeline GRPO: clipped policy gradient on behaviour log-probabilities, group advantages."""

    type: Literal["grpo"] = "grpo"
    advantage: Literal["group_std", "group_mean", "leave_one_out"] = "group_std"
    """Group-mean baseline divided by the group's standard deviation, without it, or leave-one-out."""
    std_epsilon: float = Field(1e-4, gt=0)
    """Added to the group's sample standard deviation."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """Ratio is clipped below at 1 - clip_low."""
    clip_high: float = Field(0.28, gt=0)
    """Ratio is clipped above at 1 + clip_high (clip-higher, DAPO)."""
    importance_cap: float = Field(2.0, gt=1)
    """Truncated importance sampling: behaviour-to-proximal ratio is cut at this value."""
    averaging: Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"] = (
        "token_mean"
    )
    """What the sum of token losses is divided by, over the whole optimizer batch."""
    constant_length: int = Field(0, ge=0)
    """Tokens a sequence counts for under averaging = "constant"."""
    zero_variance: Literal["drop", "keep"] = "drop"
    """Groups whose rewards are all equal teach nothing: drop them and refill, or keep them."""
    truncated: Literal["keep", "mask"] = "keep"
    """Completions cut by the length limit: train on them, or mask them from the loss."""
    overlong_buffer: int = Field(0, ge=0)
    """Tokens before max_new_tokens in which the overlong penalty grows to 1; 0 switches it off."""
    overlong_penalty: float = Field(1.0, ge=0)
    """Largest overlong penalty, subtracted from the reward."""

    @model_validator(mode="after")
    def _constant_needs_a_length(self) -> "GrpoConfig":
        if (self.averaging == "constant") != (self.constant_length > 0):
            raise ValueError(
                f"algorithm.constant_length: is {self.constant_length} with averaging = "
                f'{self.averaging!r}; set it (tokens) exactly when averaging is "constant"'
            )
        return self


AlgorithmConfig = GrpoConfig
"""Union of all algorithm sections, discriminated by ``type``."""
