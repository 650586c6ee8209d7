"""Base of the policy-gradient family: the importance ratios, the terms beside the policy's own, and the metrics.

A member of the family is one function, ``token_loss``: the loss of each token from its log-ratio and its advantage.
This is a complete algorithm, registered by one entry point:

    class Sapo(PolicyGradient[SapoConfig]):
        def token_loss(self, logprobs, log_ratio, advantages, batch):
            tau = self.config.temperature
            soft = torch.sigmoid(tau * (log_ratio.exp() - 1)) * 4 / tau
            return -soft * advantages, {}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from rlserve.algorithms import advantages, metrics, ratios, regularizers, rewards
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    Metric,
    PolicyOutputs,
    TokenBatch,
    TokenLoss,
)
from rlserve.algorithms.masked import masked_sum, token_weights
from rlserve.config.algorithms.policy_gradient import AveragingConfig, PolicyGradientConfig
from rlserve.errors import InvalidRequest

C = TypeVar("C", bound=PolicyGradientConfig)


@dataclass(slots=True)
class PolicyGradient(Generic[C]):
    """Base of the family's registered classes, which add ``token_loss``.

    With the running baseline it has a memory of one number: ``state`` and ``restore`` are for checkpoints.
    """

    proportional: ClassVar[bool] = False
    """The token loss is proportional to the advantage: a sequence of advantage 0 has no gradient, and costs nothing."""
    ratio_to_behavior: ClassVar[bool] = False
    """The ratio is always that of policy to behaviour, also when a batch serves several optimizer steps."""
    config: C
    baseline: float | None = None
    """Running mean of shaped rewards; None before the first batch."""

    def token_loss(self, logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> TokenLoss:
        """The loss of each token before averaging; every tensor is ``[B, T]``, and 0 where the token is not trained on.

        ``logprobs`` are the policy's, ``log_ratio`` is that of policy to proximal policy (the behaviour policy when
        each batch serves one step); both have a gradient, ``advantages`` have none.
        """
        raise NotImplementedError(f"{type(self).__name__}: has no token_loss; see rlserve.algorithms.policy_gradient")

    @property
    def needs(self) -> frozenset[str]:
        """Reference log-probabilities and log-partition where a coefficient asks for them; entropy as a metric."""
        config = self.config
        wanted = {
            "entropy": True,
            "entropy_gradient": config.entropy_coefficient > 0,
            "log_partition": config.z_loss_coefficient > 0,
            "reference_logprobs": config.kl.coefficient > 0,
        }
        return frozenset(name for name, needed in wanted.items() if needed)

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """One word for a group whose rewards give no advantage; None to train on it."""
        return rewards.why_drop(outcome, self.config)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """One assignment for each trajectory that is trained on. Moves the running baseline, after it was used."""
        # With the baseline of earlier batches: one that contains this batch depends on the rewards that it is taken
        # from. The first batch has no other.
        assignments = rewards.prepare(outcomes, self.config, baseline=self.baseline)
        if self.config.advantage == "running_baseline" and assignments:
            mean = rewards.mean_reward(outcomes, self.config)
            self.baseline = advantages.next_baseline(self.baseline, mean, self.config.baseline_decay)
        # Other terms train a sequence whatever its advantage is.
        silent = self.proportional and not _has_other_terms(self.config)
        # The model is then not run on them; they still count in every denominator.
        return [replace(a, has_gradient=a.advantage != 0) for a in assignments] if silent else assignments

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share: the averaged token losses, and the terms for reference, entropy and log-partition.

        With proximal log-probabilities the ratio is to the proximal policy, and a constant weight corrects from
        behaviour to proximal (arXiv:2110.00641).
        """
        config, mask = self.config, batch.loss_mask
        # None as well when a batch serves one step: the ratio to the behaviour policy is then the whole correction.
        proximal = None if self.ratio_to_behavior else batch.proximal_logprobs
        behavior_ratio = ratios.log_ratio(outputs.logprobs, batch.behavior_logprobs, mask)
        ratio = behavior_ratio if proximal is None else ratios.log_ratio(outputs.logprobs, proximal, mask)
        rewarded, kl, measured_kl = _reference_terms(outputs, batch, config, behavior_ratio)
        # [B, T]; prompts and padding cannot reach the gradient, whatever a token_loss does with them.
        trained = torch.where(mask != 0, outputs.logprobs, torch.zeros_like(outputs.logprobs))
        token_loss, measured = self.token_loss(trained, ratio, rewarded, batch)
        weight, measured_weight = _correction(outputs, batch, config, proximal)
        shares = _averaging_weights(batch, denominator, config)
        # The correction weighs the policy's term alone: the divergence has a correction of its own (k3_unbiased).
        policy = masked_sum(token_loss * weight + kl, shares)
        return LossOutput(
            policy + _token_mean_terms(outputs, token_weights(batch, denominator, "token_mean"), config),
            {
                **metrics.off_policy(outputs, batch),
                **metrics.advantages(batch),
                **measured,
                **measured_weight,
                **measured_kl,
                "loss_policy": metrics.total(masked_sum(token_loss * weight, shares)),
            },
        )

    def state(self) -> dict[str, float]:
        """The running baseline, for a checkpoint; empty before the first batch."""
        return {} if self.baseline is None else {"baseline": self.baseline}

    def restore(self, state: Mapping[str, float]) -> None:
        """Undo ``state``."""
        self.baseline = state.get("baseline")


def clipped(
    log_ratio: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float, *, dual: float = 0.0
) -> TokenLoss:
    """The clipped token loss of PPO, and the share of tokens that each bound stops; see ``ratios``."""
    return ratios.clipped_surrogate(log_ratio, advantages, clip_low, clip_high, dual=dual), {
        "clip_low": metrics.mean(ratios.clipped_low(log_ratio, advantages, clip_low), mask),
        "clip_high": metrics.mean(ratios.clipped_high(log_ratio, advantages, clip_high), mask),
    }


def _has_other_terms(config: PolicyGradientConfig) -> bool:
    return bool(config.kl.coefficient or config.entropy_coefficient or config.z_loss_coefficient)


def _averaging_weights(batch: TokenBatch, denominator: Denominator, config: PolicyGradientConfig) -> Tensor:
    """``[B, T]`` weights of the token losses; without the setting each sequence counts the same (GSPO)."""
    if isinstance(config, AveragingConfig):
        return token_weights(batch, denominator, config.averaging, config.constant_length)
    return token_weights(batch, denominator, "sequence_mean_token_mean")


def _correction(
    outputs: PolicyOutputs, batch: TokenBatch, config: PolicyGradientConfig, proximal: Tensor | None
) -> tuple[Tensor, dict[str, Metric]]:
    """``[B, T]`` constant weight of each token's loss, and the share of tokens that keep one."""
    mask = batch.loss_mask
    weight = torch.ones_like(outputs.logprobs)
    if proximal is not None:
        log_rho = ratios.log_ratio(proximal, batch.behavior_logprobs, mask)
        weight = ratios.importance_weight(log_rho, batch, config)
    if config.off_policy_threshold:
        weight = weight * ratios.keep_near(outputs.logprobs, batch, config.off_policy_threshold)
    return weight, {"importance_kept": metrics.mean((weight > 0).to(mask.dtype), mask)}


def _reference_terms(
    outputs: PolicyOutputs, batch: TokenBatch, config: PolicyGradientConfig, behavior_ratio: Tensor
) -> tuple[Tensor, Tensor, dict[str, Metric]]:
    """Advantages less the divergence (if placed in the reward), its token loss, and its metrics."""
    zeros = torch.zeros_like(outputs.logprobs)
    if not config.kl.coefficient:
        return batch.advantages, zeros, {}
    if batch.reference_logprobs is None:
        raise InvalidRequest("reference_logprobs: missing, but algorithm.kl.coefficient is above 0; score the batch")
    # [B, T]
    d = regularizers.reference_log_ratio(outputs.logprobs, batch.reference_logprobs, batch.loss_mask)
    measured = {
        "reference_kl_k1": metrics.mean(d, batch.loss_mask),
        "reference_kl_k3": metrics.mean(regularizers.kl(d.detach(), "k3", zeros), batch.loss_mask),
    }
    if config.kl.place == "reward":  # detached: a reward is a constant to the policy gradient
        return batch.advantages - config.kl.coefficient * d.detach(), zeros, measured
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
