"""Sections of the preference family: losses on pairs, or on single answers judged good or bad."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from rlserve.config.algorithms.section import AlgorithmSection
from rlserve.config.base import Section


class PairsConfig(Section):
    """Which completions of a group become chosen and rejected."""

    selection: Literal["random", "best_worst", "all", "given"] = "random"
    """Random right against random wrong; highest against lowest reward; all pairs; or roles that come
    with the tasks, see the environment ``pairs``."""
    correct_reward: float = 1.0
    """A completion is right when its reward is at least this (for ``random``)."""
    margin: float = Field(0.0, ge=0)
    """Rewards of a pair must differ by more than this; a tie is never a pair."""
    pairs_per_group: int = Field(1, ge=1)
    """Most pairs taken from one group."""
    truncated_chosen: bool = False
    """Whether a completion cut by the length limit may be chosen; it may always be rejected."""

    @model_validator(mode="after")
    def _one_best_and_one_worst(self) -> "PairsConfig":
        # Only one pair is the widest; a second would be another selection.
        if self.selection == "best_worst" and self.pairs_per_group > 1:
            raise ValueError(
                f"algorithm.pairs.pairs_per_group: is {self.pairs_per_group} with selection = 'best_worst', which "
                "makes one pair; set it to 1, or take 'all'"
            )
        return self


class PairedConfig(AlgorithmSection):
    """Settings that all losses on pairs share."""

    pairs: PairsConfig = PairsConfig()
    """How pairs are chosen from a group."""
    averaging: Literal["pair_mean", "prompt_mean"] = "prompt_mean"
    """Mean over pairs, or over prompts of the mean over each one's pairs."""

    def problems(self, *, group_size: int, max_new_tokens: int) -> Iterator[str]:
        """See ``AlgorithmSection.problems``."""
        # Given pairs bring both completions with the task, whatever the group's size.
        if self.pairs.selection != "given" and group_size < 2:
            yield f"rollout.group_size: is {group_size}, but a pair takes 2 completions of one task; give at least 2"


class DpoConfig(PairedConfig):
    """Direct preference optimisation and its kin, on pairs made online or given."""

    type: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "hinge", "apo_zero", "apo_down"] = "sigmoid"
    """Loss on the margin of a pair, the policy's log-ratio to the reference of the chosen less that of the rejected."""
    beta: float = Field(0.1, gt=0)
    """Weight of the divergence from the reference in the objective that the loss is derived from: higher
    keeps the policy nearer to the reference."""
    length_normalized: bool = False
    """Log-ratios are means over a completion's tokens instead of sums; wants a beta of 1 to 10."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a label is wrong (cDPO); for the sigmoid loss."""
    nll_coefficient: float = Field(0.0, ge=0)
    """Weight of the chosen completions' cross-entropy, a mean over their tokens."""

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> "DpoConfig":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"algorithm.label_smoothing: is {self.label_smoothing} with loss = {self.loss!r}, which has none; "
                "take 'sigmoid', or 0"
            )
        # IPO regresses the log-ratio on 1 / (2 beta), a constant that a sum over more tokens overshoots.
        if self.loss == "ipo" and not self.length_normalized:
            raise ValueError(
                "algorithm.length_normalized: is false with loss = 'ipo', whose square then grows with length; "
                "set it to true"
            )
        return self


class OrpoConfig(PairedConfig):
    """ORPO: cross-entropy of the chosen completion and an odds-ratio term; no reference model."""

    type: Literal["orpo"] = "orpo"
    coefficient: float = Field(0.1, gt=0)
    """Weight of the odds-ratio term."""


class KtoConfig(AlgorithmSection):
    """KTO: single completions, each good or bad; no pairs needed."""

    type: Literal["kto"] = "kto"
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """Against the batch's divergence from the reference, or against the reference alone."""
    beta: float = Field(0.1, gt=0)
    """See ``DpoConfig.beta``."""
    correct_reward: float = 1.0
    """A completion is good when its reward is at least this."""
    desirable_weight: float = Field(1.0, gt=0)
    """Weight of a good completion. Balanced when this times their number is 1 to 4/3 of the bad ones' product."""
    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of a bad completion."""


PreferenceSections: TypeAlias = DpoConfig | OrpoConfig | KtoConfig
"""The built-in algorithms of this family."""
