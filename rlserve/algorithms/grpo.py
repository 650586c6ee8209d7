"""Pipeline GRPO: clipped policy gradient on the log-probabilities recorded when the tokens were sampled.

Two forms (l in training, b behaviour, p proximal; A the advantage):

* one optimizer step per batch (no proximal log-probabilities): PPO on w = exp(l - b);
* several: min(exp(p - b), importance_cap), a constant, times PPO on exp(l - p).

GRPO: arXiv:2402.03300; clip-higher and token mean: DAPO, arXiv:2503.14476; the second form: arXiv:2110.00641.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlserve.algorithms import metrics, policy_gradient, ratios
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    PolicyOutputs,
    TokenBatch,
)
from rlserve.algorithms.masked import masked_sum, token_weights
from rlserve.config.algorithms import GrpoConfig


@dataclass(frozen=True, slots=True)
class Grpo:
    """Registered as ``grpo``."""

    config: GrpoConfig

    @property
    def needs(self) -> frozenset[str]:
        """Entropy, as a metric."""
        return frozenset({"entropy"})

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """See ``policy_gradient.why_drop``."""
        return policy_gradient.why_drop(outcome, self.config)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """See ``policy_gradient.prepare``."""
        return policy_gradient.prepare(outcomes, self.config)

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``grpo.loss``."""
        return loss(outputs.logprobs, outputs.entropy, batch, denominator, self.config)


def loss(
    policy_logprobs: Tensor,
    entropy: Tensor | None,
    batch: TokenBatch,
    denominator: Denominator,
    config: GrpoConfig,
) -> LossOutput:
    """This micro-batch's share of the loss; ``policy_logprobs`` and ``entropy`` are ``[B, T]``."""
    mask = batch.loss_mask
    proximal = batch.behavior_logprobs if batch.proximal_logprobs is None else batch.proximal_logprobs
    log_ratio = ratios.log_ratio(policy_logprobs, proximal, mask)
    token_loss = ratios.clipped_surrogate(log_ratio, batch.advantages, config.clip_low, config.clip_high)
    if batch.proximal_logprobs is not None:
        token_loss = token_loss * ratios.truncated(
            ratios.log_ratio(proximal, batch.behavior_logprobs, mask), config.importance_cap
        )
    weights = token_weights(batch, denominator, config.averaging, config.constant_length)
    low = ratios.clipped_low(log_ratio, batch.advantages, config.clip_low)
    high = ratios.clipped_high(log_ratio, batch.advantages, config.clip_high)
    behavior_ratio = ratios.log_ratio(policy_logprobs, batch.behavior_logprobs, mask)
    outputs = PolicyOutputs(logprobs=policy_logprobs, entropy=entropy)
    measured = policy_gradient.measure(outputs, batch, behavior_ratio)
    measured["clip_low"] = metrics.mean(low, mask)
    measured["clip_high"] = metrics.mean(high, mask)
    return LossOutput(masked_sum(token_loss, weights), measured)
