"""What the policy-gradient family shares: the ratios, the terms beside the surrogate, and what is measured.

A member of the family is a surrogate: a loss for each token, from the log-ratio and the advantage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from rlserve.algorithms import advantages, corrections, measures, metrics, ratios, regularizers, rewards
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    Metric,
    PolicyOutputs,
    TokenBatch,
)
from rlserve.algorithms.masked import masked_sum, token_weights
from rlserve.config.algorithms.policy_gradient import AveragingConfig, PolicyGradientConfig
from rlserve.errors import InvalidRequest

C = TypeVar("C", bound=PolicyGradientConfig)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surrogate:
    """What a member of the family makes of its log-ratios; every tensor is ``[B, T]``."""

    token_loss: Tensor
    """With gradient."""
    metrics: Mapping[str, Metric]


SurrogateFunction = Callable[[Tensor, Tensor, TokenBatch], Surrogate]
"""(log-ratio to the proximal policy, advantages, batch) -> surrogate."""


@dataclass(slots=True)
class PolicyGradient(Generic[C]):
    """Base of the family's registered classes, which add ``loss``.

    With the running baseline it has a memory of one number: ``state`` and ``restore`` are for checkpoints.
    """

    proportional: ClassVar[bool] = False
    """The surrogate is proportional to the advantage: without one a sequence has no gradient."""
    config: C
    baseline: float | None = None
    """Running mean of shaped rewards; None before the first batch."""

    @property
    def needs(self) -> frozenset[str]:
        """See ``Algorithm.needs``."""
        config = self.config
        wanted = {
            "entropy": True,
            "entropy_gradient": config.entropy_coefficient > 0,
            "log_partition": config.z_loss_coefficient > 0,
            "reference_logprobs": config.kl.coefficient > 0,
        }
        return frozenset(name for name, needed in wanted.items() if needed)

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """See ``rewards.why_drop``."""
        return rewards.why_drop(outcome, self.config)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """See ``rewards.prepare``. Moves the running baseline, after it was used."""
        assignments = rewards.prepare(outcomes, self.config, baseline=self.baseline)
        if self.config.advantage == "running_baseline" and assignments:
            mean = rewards.mean_reward(outcomes, self.config)
            self.baseline = advantages.next_baseline(self.baseline, mean, self.config.baseline_decay)
        silent = self.proportional and not _has_other_terms(self.config)
        return [replace(a, has_gradient=a.advantage != 0) for a in assignments] if silent else assignments

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def restore(self, state: Mapping[str, float]) -> None:
        """Undo ``state``."""
        self.baseline = state.get("baseline")


def loss(
    outputs: PolicyOutputs,
    batch: TokenBatch,
    denominator: Denominator,
    config: PolicyGradientConfig,
    surrogate: SurrogateFunction,
    *,
    averaging: str = "",
) -> LossOutput:
    """This micro-batch's share of a policy-gradient loss with all its terms.

    Without proximal log-probabilities the surrogate's ratio is to the behaviour policy. With them it is to
    the proximal one, and a constant corrects from behaviour to proximal (arXiv:2110.00641).
    """
    behavior_ratio = ratios.log_ratio(outputs.logprobs, batch.behavior_logprobs, batch.loss_mask)
    rewarded, kl, measured_kl = _reference_terms(outputs, batch, config, behavior_ratio)
    made = surrogate(_surrogate_ratio(outputs, batch, behavior_ratio), rewarded, batch)
    weight, measured_weight = _constant_weight(outputs, batch, config)
    constant_length = config.constant_length if isinstance(config, AveragingConfig) else 0
    name = averaging or (config.averaging if isinstance(config, AveragingConfig) else "sequence_mean_token_mean")
    shares = token_weights(batch, denominator, name, constant_length)
    policy = masked_sum(made.token_loss * weight + kl, shares)
    total = policy + _token_mean_terms(outputs, token_weights(batch, denominator, "token_mean"), config)
    measured = {
        **measures.off_policy(outputs, batch),
        **measures.advantages(batch),
        **made.metrics,
        **measured_weight,
        **measured_kl,
        "loss_policy": metrics.total(masked_sum(made.token_loss * weight, shares)),
    }
    return LossOutput(total, measured)


def _has_other_terms(config: PolicyGradientConfig) -> bool:
    return bool(config.kl.coefficient or config.entropy_coefficient or config.z_loss_coefficient)


def _surrogate_ratio(outputs: PolicyOutputs, batch: TokenBatch, behavior_ratio: Tensor) -> Tensor:
    if batch.proximal_logprobs is None:
        return behavior_ratio
    return ratios.log_ratio(outputs.logprobs, batch.proximal_logprobs, batch.loss_mask)


def _constant_weight(
    outputs: PolicyOutputs, batch: TokenBatch, config: PolicyGradientConfig
) -> tuple[Tensor, dict[str, Metric]]:
    """``[B, T]`` weight of each token's surrogate, and the share of tokens that keep one."""
    mask = batch.loss_mask
    weight = torch.ones_like(outputs.logprobs)
    if batch.proximal_logprobs is not None:
        log_rho = ratios.log_ratio(batch.proximal_logprobs, batch.behavior_logprobs, mask)
        weight = corrections.importance_weight(log_rho, batch, config)
    if config.off_policy_threshold:
        weight = weight * corrections.keep_near(outputs.logprobs, batch, config.off_policy_threshold)
    return weight, {"importance_kept": metrics.mean((weight > 0).to(mask.dtype), mask)}


def _reference_terms(
    outputs: PolicyOutputs, batch: TokenBatch, config: PolicyGradientConfig, behavior_ratio: Tensor
) -> tuple[Tensor, Tensor, dict[str, Metric]]:
    """Advantages less the divergence (if placed in the reward), its token loss, and its metrics."""
    nothing = torch.zeros_like(outputs.logprobs)
    if not config.kl.coefficient:
        return batch.advantages, nothing, {}
    if batch.reference_logprobs is None:
        raise InvalidRequest("reference_logprobs: missing, but algorithm.kl.coefficient is above 0; score the batch")
    d = regularizers.reference_log_ratio(outputs.logprobs, batch.reference_logprobs, batch.loss_mask)
    measured = {
        "reference_kl_k1": metrics.mean(d, batch.loss_mask),
        "reference_kl_k3": metrics.mean(regularizers.kl(d.detach(), "k3", nothing), batch.loss_mask),
    }
    if config.kl.place == "reward":
        return batch.advantages - config.kl.coefficient * d.detach(), nothing, measured
    token_kl = regularizers.kl(d, config.kl.estimator, behavior_ratio)
    return batch.advantages, config.kl.coefficient * token_kl, measured


def _token_mean_terms(outputs: PolicyOutputs, weights: Tensor, config: PolicyGradientConfig) -> Tensor:
    """Entropy bonus and z-loss: a mean over tokens, however the policy's term is averaged."""
    total = outputs.logprobs.new_zeros(())
    if config.entropy_coefficient and outputs.entropy is not None:
        total = total + config.entropy_coefficient * regularizers.entropy_bonus(outputs.entropy, weights)
    if config.z_loss_coefficient and outputs.log_partition is not None:
        total = total + config.z_loss_coefficient * regularizers.z_loss(outputs.log_partition, weights)
    return total
