"""What the policy-gradient family shares: from rewards to advantages, and what is measured.

Members of a group without a verdict, or with nothing sampled, are not trained on and enter no baseline.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlserve.algorithms import advantages, metrics, ratios, shaping
from rlserve.algorithms.batch import Assignment, GroupOutcome, Metric, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import sequence_sum
from rlserve.config.algorithms import GrpoConfig


def why_drop(outcome: GroupOutcome, config: GrpoConfig) -> str | None:
    """``"no_verdict"``, ``"zero_variance"``, ``"truncated"`` (nothing left to train on), or None.

    Variance is that of the rewards as verified: a group that differs only by its overlong penalty is dropped.
    """
    if outcome.scored.sum() < 2:
        return "no_verdict"
    if config.zero_variance == "drop" and advantages.is_zero_variance(outcome.rewards, outcome.scored):
        return "zero_variance"
    return None if _trained(outcome, config).any() else "truncated"


def prepare(outcomes: Sequence[GroupOutcome], config: GrpoConfig) -> list[Assignment]:
    """One assignment for each member that is trained on, in order."""
    return [
        Assignment(group=group, member=member, advantage=float(values[member]))
        for group, outcome in enumerate(outcomes)
        for values in [advantage(outcome, config)]
        for member in torch.nonzero(_trained(outcome, config)).flatten().tolist()
    ]


def advantage(outcome: GroupOutcome, config: GrpoConfig) -> Tensor:
    """``[G]`` float64; 0 where there is no verdict."""
    rewards = shaped_rewards(outcome, config)
    if config.advantage == "group_mean":
        return advantages.group_mean(rewards, outcome.scored)
    if config.advantage == "leave_one_out":
        return advantages.leave_one_out(rewards, outcome.scored)
    return advantages.group_std(rewards, outcome.scored, epsilon=config.std_epsilon)


def shaped_rewards(outcome: GroupOutcome, config: GrpoConfig) -> Tensor:
    """``[G]`` rewards with the overlong penalty."""
    if not config.overlong_buffer:
        return outcome.rewards
    penalty = shaping.overlong_penalty(outcome.lengths, outcome.length_limit, config.overlong_buffer)
    return outcome.rewards + config.overlong_penalty * penalty


def measure(outputs: PolicyOutputs, batch: TokenBatch, log_ratio: Tensor) -> dict[str, Metric]:
    """Metrics of every policy-gradient loss. ``log_ratio`` ``[B, T]`` is of the policy to the behaviour."""
    mask, detached = batch.loss_mask, log_ratio.detach()
    ratio, whole = detached.exp(), _sequence_ratio(batch, detached)
    measured = {
        "ratio_mean": metrics.mean(ratio, mask),
        "ratio_max": metrics.maximum(ratio, mask),
        "ratio_min": metrics.minimum(ratio, mask),
        "ess": metrics.effective_sample_size(ratio, mask),
        "ess_sequence": metrics.effective_sample_size(*whole),
        "mismatch_kl": metrics.mean(ratios.k3(detached), mask),
        "advantage_mean": metrics.mean(batch.advantages, mask),
        "advantage_std": metrics.standard_deviation(batch.advantages, mask),
        "advantage_max": metrics.maximum(batch.advantages, mask),
        "advantage_min": metrics.minimum(batch.advantages, mask),
        "lag_mean": metrics.mean(batch.lag.to(mask.dtype), mask),
        "lag_max": metrics.maximum(batch.lag.to(mask.dtype), mask),
        "tokens": metrics.total(mask),
    }
    if outputs.entropy is not None:
        measured["entropy"] = metrics.mean(outputs.entropy, mask)
    return measured


def _trained(outcome: GroupOutcome, config: GrpoConfig) -> Tensor:
    return outcome.scored & ~outcome.truncated if config.truncated == "mask" else outcome.scored


def _sequence_ratio(batch: TokenBatch, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Product of the ratios of each sequence's tokens, and whether the sequence is here; ``[N]`` each."""
    size = int(batch.sequence_ids.max()) + 1
    logs = sequence_sum(log_ratio, batch.sequence_ids, size)
    here = sequence_sum(batch.loss_mask, batch.sequence_ids, size) > 0
    return logs.clamp(-ratios.MAX_LOG_RATIO, ratios.MAX_LOG_RATIO).exp(), here.to(log_ratio.dtype)
