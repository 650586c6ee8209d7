"""Sections of the policy-gradient family; ``PolicyGradientConfig`` has the shared settings."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from rlserve.config.algorithms.section import AlgorithmSection
from rlserve.config.base import Section

GROUP_ADVANTAGES = ("group_std", "group_mean", "leave_one_out", "batch_std", "max_rl")
"""Advantages that compare samples of one task, and so need at least two."""


class KlConfig(Section):
    """Divergence from a frozen reference model."""

    coefficient: float = Field(0.0, ge=0)
    """0 switches it off, and no reference model is needed."""
    estimator: Literal["k1", "k2", "k3", "k3_unbiased"] = "k2"
    """With d = log-probability less the reference's: d, d^2/2, exp(-d) - 1 + d, or the last times the ratio."""
    place: Literal["loss", "reward"] = "loss"
    """Added to the loss, or taken off each token's advantage as a constant."""

    @model_validator(mode="after")
    def _estimator_fits_its_place(self) -> "KlConfig":
        # The derivative of E[log p - log r] with samples fixed is E[grad log p] = 0.
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "algorithm.kl.estimator: is 'k1' with place = 'loss', whose expected gradient is 0; "
                "take 'k2' or 'k3_unbiased', or place = 'reward'"
            )
        # With d in the reward the policy gradient is that of the reverse KL; with d^2 / 2 or k3 it is that of another
        # function.
        if self.place == "reward" and self.estimator != "k1":
            raise ValueError(
                f"algorithm.kl.estimator: is {self.estimator!r} with place = 'reward', which is no gradient of a "
                "divergence; take 'k1'"
            )
        return self


class PolicyGradientConfig(AlgorithmSection):
    """Settings that all policy-gradient losses share. Class defaults are the vetted setting."""

    advantage: Literal["group_std", "group_mean", "leave_one_out", "batch_std", "max_rl", "running_baseline"] = (
        "group_std"
    )
    """Reward against the group's mean: over the group's standard deviation, plain, leave-one-out, over the
    batch's standard deviation, or over the mean itself. Or against a running mean of all rewards."""
    std_epsilon: float = Field(1e-4, gt=0)
    """Added to the standard deviation."""
    baseline_decay: float = Field(0.9, ge=0, lt=1)
    """Of the running baseline, per optimizer batch."""
    zero_variance: Literal["drop", "keep"] = "drop"
    """Groups whose rewards are all equal have no gradient: drop them and refill, or keep them."""
    truncated: Literal["keep", "mask"] = "keep"
    """Completions cut by the length limit: train on them, or mask them from the loss."""
    overlong_buffer: int = Field(0, ge=0)
    """Tokens before the length limit in which the overlong penalty grows to 1; 0 switches it off."""
    overlong_penalty: float = Field(1.0, ge=0)
    """Largest overlong penalty, subtracted from the reward."""
    mode_limits: dict[str, int] = Field(default_factory=dict)
    """Length limit for the overlong penalty by the task's label ``mode``, e.g. ``{no_think = 512}``;
    other tasks: max_new_tokens."""
    length_penalty: float = Field(0.0, ge=0, lt=1)
    """Share of the group's mean reward taken off its longest completion, of shorter ones in proportion."""
    kl: KlConfig = KlConfig()
    """Divergence from a reference model."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the mean token entropy as a bonus."""
    z_loss_coefficient: float = Field(0.0, ge=0)
    """Weight of the mean squared log-partition, which keeps logits from drifting; 1e-4 is usual."""
    importance: Literal["off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    """Correction from behaviour to proximal policy: ratios cut at the cap, or dropped beyond it."""
    importance_cap: float = Field(2.0, gt=1)
    """Behaviour-to-proximal ratio above which it is cut or dropped."""
    importance_floor: float = Field(0.0, ge=0, lt=1)
    """Ratio below which a masking correction drops."""
    off_policy_threshold: float = Field(0.0, ge=0)
    """Sequences with a negative advantage are dropped when the mean of behaviour less policy log-probability
    exceeds this (nats); 0 switches it off."""

    def problems(self, *, group_size: int, max_new_tokens: int) -> Iterator[str]:
        """See ``AlgorithmSection.problems``."""
        if group_size < 2 and self.advantage in GROUP_ADVANTAGES:
            yield (
                f"rollout.group_size: is {group_size}, but algorithm.advantage = {self.advantage!r} compares samples "
                "of one task; give at least 2"
            )
        if self.overlong_buffer >= max_new_tokens:
            yield (
                f"algorithm.overlong_buffer: is {self.overlong_buffer}, but completions have at most "
                f"rollout.max_new_tokens = {max_new_tokens}; make it smaller"
            )

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> "PolicyGradientConfig":
        # These subtract from rewards; max_rl divides by their mean, which must not pass through 0.
        shaped = self.overlong_buffer > 0 or self.length_penalty > 0
        if self.advantage == "max_rl" and shaped:
            raise ValueError(
                "algorithm.advantage: is 'max_rl', which needs rewards >= 0, with a length penalty that makes them "
                "negative; set overlong_buffer and length_penalty to 0"
            )
        # Against a baseline of earlier batches a group that is all right or all wrong still has an advantage.
        if self.advantage == "running_baseline" and self.zero_variance == "drop":
            raise ValueError(
                "algorithm.zero_variance: is 'drop' with advantage = 'running_baseline', where groups of equal "
                "rewards do teach; set it to 'keep'"
            )
        if self.importance_floor and not self.importance.endswith("_mask"):
            raise ValueError(
                f"algorithm.importance_floor: is {self.importance_floor} with importance = {self.importance!r}, which "
                "drops nothing; take 'token_mask' or 'sequence_mask'"
            )
        if self.mode_limits and not self.overlong_buffer:
            raise ValueError("algorithm.mode_limits: has no effect without algorithm.overlong_buffer; set that too")
        for mode, limit in self.mode_limits.items():
            # The ramp is [limit - buffer, limit]: with a smaller limit every completion, even an empty one, would be
            # penalised.
            if limit <= self.overlong_buffer:
                raise ValueError(
                    f"algorithm.mode_limits.{mode}: is {limit}, not above overlong_buffer = {self.overlong_buffer}; "
                    "raise it"
                )
        return self


class AveragingConfig(PolicyGradientConfig):
    """Settings of losses with a choice of denominator."""

    averaging: Literal[
        "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant", "prompt_mean"
    ] = "token_mean"
    """Denominator of the sum of token losses, over the whole optimizer batch."""
    constant_length: int = Field(0, ge=0)
    """Tokens a sequence counts for under averaging = "constant"."""

    @model_validator(mode="after")
    def _constant_needs_a_length(self) -> "AveragingConfig":
        # Both ways: a length without its averaging would be ignored without a word.
        if (self.averaging == "constant") != (self.constant_length > 0):
            raise ValueError(
                f"algorithm.constant_length: is {self.constant_length} with averaging = "
                f'{self.averaging!r}; set it (tokens) exactly when averaging is "constant"'
            )
        return self


class GrpoConfig(AveragingConfig):
    """Pipeline GRPO: clipped policy gradient on behaviour log-probabilities, group advantages."""

    type: Literal["grpo"] = "grpo"
    clip_low: float = Field(0.2, gt=0, lt=1)
    """Ratio is clipped below at 1 - clip_low."""
    # DAPO's clip-higher (arXiv:2503.14476): with the upper bound at 0.2 an unlikely token can hardly grow, and entropy
    # falls.
    clip_high: float = Field(0.28, gt=0)
    """Ratio is clipped above at 1 + clip_high (clip-higher, DAPO)."""
    dual_clip: float = Field(0.0, ge=0)
    """Largest ratio for a negative advantage; above it no gradient. 0 switches it off."""

    @model_validator(mode="after")
    def _dual_clip_is_above_the_clip(self) -> "GrpoConfig":
        # At a smaller value it would stop tokens that are nearly on policy as well.
        if self.dual_clip and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"algorithm.dual_clip: is {self.dual_clip}, not above 1 + clip_high = {1 + self.clip_high}; "
                "raise it, or 0 to switch it off"
            )
        return self


class CispoConfig(AveragingConfig):
    """CISPO: the ratio is cut and a constant, so every token keeps its gradient."""

    type: Literal["cispo"] = "cispo"
    max_ratio: float = Field(5.0, gt=1)
    """The ratio itself is cut here (not 1 + this)."""


class GspoConfig(PolicyGradientConfig):
    """GSPO: one ratio a sequence (the geometric mean of its tokens'), clipped; mean over sequences."""

    type: Literal["gspo"] = "gspo"
    # The GSPO paper's values (arXiv:2507.18071, section 5.1): a mean over a sequence moves far less than one token's
    # ratio.
    clip_low: float = Field(3e-4, gt=0, lt=1)
    """Sequence ratio is clipped below at 1 - clip_low; far smaller than a token's."""
    clip_high: float = Field(4e-4, gt=0)
    """Sequence ratio is clipped above at 1 + clip_high."""


class ReinforceConfig(AveragingConfig):
    """Plain REINFORCE, with the importance correction on the whole ratio of policy to behaviour."""

    type: Literal["reinforce"] = "reinforce"
    advantage: Literal["group_std", "group_mean", "leave_one_out", "batch_std", "max_rl", "running_baseline"] = (
        "leave_one_out"
    )
    """As for ``grpo``; here each sample's baseline is the mean of the others."""


PolicyGradientSections: TypeAlias = GrpoConfig | CispoConfig | GspoConfig | ReinforceConfig
"""The built-in algorithms of this family; the first one is the default of a run."""
