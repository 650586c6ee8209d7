"""Sections of distillation from teachers, and of several objectives in one batch."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, model_validator

from rlserve.config.algorithms.policy_gradient import PolicyGradientSections
from rlserve.config.algorithms.section import AlgorithmSection


class DistillConfig(AlgorithmSection):
    """Distillation on the student's own samples, or on given text."""

    type: Literal["distill"] = "distill"
    estimator: Literal["sampled", "top_k"] = "sampled"
    """From the teacher's log-probability of each sampled token alone (a policy gradient; works across
    tokenizers), or from its top k and their tail (a divergence of distributions; one tokenizer)."""
    beta: float = Field(1.0, ge=0, le=1)
    """Of the divergence under ``top_k``: 0 is forward KL(teacher, student), 1 reverse, between them the
    generalised Jensen-Shannon divergence with teacher's share beta in the mixture."""
    # Without it the loss goes to 0 as beta nears 0 or 1, while at 0 and 1 themselves it is a KL: a jump.
    normalize: bool = True
    """Divide the Jensen-Shannon divergence by beta (1 - beta), so that it goes over into the KLs at both ends."""
    k: int = Field(16, ge=1)
    """Entries of the teacher's top under ``top_k``."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions under ``top_k``; the loss is multiplied by its square."""
    coefficient: float = Field(1.0, gt=0)
    """Weight of the distillation term."""
    cross_entropy: float = Field(0.0, ge=0)
    """Weight of the cross-entropy of the tokens themselves; for text that the teacher wrote."""
    difference: Literal["policy", "behavior"] = "policy"
    """What the teacher is compared with under ``sampled``: the policy in training, or the one that sampled."""
    max_ratio: float = Field(5.0, gt=1)
    """Importance ratio of policy to behaviour is cut here, under ``sampled``."""

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> "DistillConfig":
        # Samples of the student give an unbiased estimate of KL(student, teacher) alone; a forward KL needs the
        # teacher's samples.
        if self.estimator == "sampled" and self.beta != 1.0:
            raise ValueError(
                f"algorithm.beta: is {self.beta} with estimator = 'sampled', which estimates the reverse divergence "
                "only; set it to 1, or take 'top_k'"
            )
        if self.estimator == "sampled" and self.temperature != 1.0:
            raise ValueError(
                f"algorithm.temperature: is {self.temperature} with estimator = 'sampled', where tokens were sampled "
                "at rollout.temperature already; set it to 1, or take 'top_k'"
            )
        return self


# The policy-gradient family alone: Mixed.prepare carries an advantage for each trajectory, and no pairs.
RewardConfig = Annotated[PolicyGradientSections, Discriminator("type")]


class MixedConfig(AlgorithmSection):
    """Verifiable reward, distillation and supervised examples in one batch, each over its own tokens."""

    type: Literal["mixed"] = "mixed"
    reward: RewardConfig | None = None
    """Policy gradient on the tokens that the policy sampled; unset: none."""
    reward_weight: float = Field(1.0, ge=0)
    """Weight of the reward's loss."""
    distill: DistillConfig | None = None
    """Distillation on the tokens that a teacher scored; unset: none."""
    distill_weight: float = Field(1.0, ge=0)
    """Weight of the distillation's loss."""
    supervised_weight: float = Field(0.0, ge=0)
    """Weight of the mean cross-entropy over tokens of the objective "supervised"."""

    def problems(self, *, group_size: int, max_new_tokens: int) -> Iterator[str]:
        """See ``AlgorithmSection.problems``."""
        if self.reward:
            yield from self.reward.problems(group_size=group_size, max_new_tokens=max_new_tokens)

    @model_validator(mode="after")
    def _there_is_something_to_mix(self) -> "MixedConfig":
        parts = (self.reward is not None, self.distill is not None, self.supervised_weight > 0)
        if sum(parts) < 2:
            raise ValueError(
                "algorithm.type: is 'mixed' with fewer than two of [algorithm.reward], [algorithm.distill] and "
                "supervised_weight; give two, or take the one algorithm itself"
            )
        return self


DistillationSections: TypeAlias = DistillConfig | MixedConfig
"""The built-in algorithms of this family."""
