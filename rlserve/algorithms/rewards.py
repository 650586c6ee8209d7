"""Turns verified rewards into the advantage of each trajectory, for the policy-gradient family.

Members of a group without a verdict, or with nothing sampled, are not trained on and enter no baseline. Rewards are
adjusted by length before they are compared. Shape letter: G trajectories of a group.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlserve.algorithms import advantages
from rlserve.algorithms.batch import Assignment, GroupOutcome
from rlserve.config.algorithms.policy_gradient import GROUP_ADVANTAGES, PolicyGradientConfig


def why_drop(outcome: GroupOutcome, config: PolicyGradientConfig) -> str | None:
    """``"no_verdict"``, ``"zero_variance"``, ``"truncated"`` (nothing left), ``"negative_reward"``, or None.

    Variance is that of the rewards as verified: a group that differs only by its penalties is dropped.
    """
    scored, rewards = outcome.scored.tolist(), outcome.rewards.tolist()  # tensors of a few entries cost more
    if outcome.given is not None:
        scored = [is_scored and not given for is_scored, given in zip(scored, outcome.given.tolist(), strict=True)]
    compared = [index for index, is_scored in enumerate(scored) if is_scored]
    if len(compared) < (2 if config.advantage in GROUP_ADVANTAGES else 1):
        return "no_verdict"
    known = [rewards[index] for index in compared]
    if config.advantage == "max_rl" and min(known) < 0:
        return "negative_reward"
    # On rewards as verified: penalties for length alone would teach brevity on tasks that are hopeless.
    if config.zero_variance == "drop" and advantages.is_zero_variance(known):
        return "zero_variance"
    if config.truncated != "mask":
        return None
    truncated = outcome.truncated.tolist()
    return "truncated" if all(truncated[index] for index in compared) else None


def prepare(
    outcomes: Sequence[GroupOutcome], config: PolicyGradientConfig, *, baseline: float | None = None
) -> list[Assignment]:
    """One assignment for each trajectory that is trained on, in order.

    ``baseline`` is the running one; None takes the mean of this batch.
    """
    outcomes = [_sampled(outcome) for outcome in outcomes]
    # Batch statistics first: every trajectory's advantage may depend on them.
    shaped = [shaped_rewards(outcome, config) for outcome in outcomes]
    scored = _all_scored(shaped, outcomes)
    # Over all scored rewards at once, [n] -> [].
    deviation = advantages.batch_deviation(scored)
    level = baseline if baseline is not None else mean_reward(outcomes, config)
    values = [
        _advantage(rewards, outcome.scored, config, deviation, level)
        for rewards, outcome in zip(shaped, outcomes, strict=True)
    ]
    return [
        Assignment(group=group, trajectory_index=index, advantage=float(values[group][index]))
        for group, outcome in enumerate(outcomes)
        for index in torch.nonzero(_trained(outcome, config)).flatten().tolist()
    ]


def mean_reward(outcomes: Sequence[GroupOutcome], config: PolicyGradientConfig) -> float:
    """Mean shaped reward over the batch; 0 when nothing is scored."""
    outcomes = [_sampled(outcome) for outcome in outcomes]
    scored = _all_scored([shaped_rewards(outcome, config) for outcome in outcomes], outcomes)
    return float(scored.mean()) if scored.numel() else 0.0


def shaped_rewards(outcome: GroupOutcome, config: PolicyGradientConfig) -> Tensor:
    """``[G]`` rewards with the penalties for length."""
    rewards = outcome.rewards
    if config.length_penalty:
        rewards = length_penalty(rewards, outcome.scored, outcome.lengths, config.length_penalty)
    if config.overlong_buffer:
        # A task in a mode without thinking should not be allowed the length of one with it.
        limit = config.mode_limits.get(outcome.mode, outcome.length_limit)
        penalty = overlong_penalty(outcome.lengths, limit, config.overlong_buffer)
        rewards = rewards + config.overlong_penalty * penalty
    return rewards


def overlong_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """Penalty from 0 to -1, added to the reward, ``[G] -> [G]`` (DAPO eq. 13, arXiv:2503.14476).

    0 up to ``limit - buffer`` tokens, then linear to -1 at ``limit``, -1 beyond. ``buffer`` >= 1.
    """
    # [G]
    excess = lengths.double() - (limit - buffer)
    # Linear instead of a step: a completion just over the limit is nearly as good as one just under it.
    return -(excess / buffer).clamp(0.0, 1.0)


def length_penalty(rewards: Tensor, scored: Tensor, lengths: Tensor, weight: float) -> Tensor:
    """Rewards less the group's mean times weight times length over the longest, ``[G] -> [G]``.

    Proportional to the mean, so that it fades where a task is rarely solved and every success counts.
    """
    mean = torch.where(scored, rewards, torch.zeros_like(rewards)).sum() / scored.sum().clamp(min=1)
    return rewards - mean * weight * lengths / lengths.max().clamp(min=1)


def _sampled(outcome: GroupOutcome) -> GroupOutcome:
    """The outcome with only the policy's own samples scored: a policy gradient needs their behaviour policy."""
    return outcome if outcome.given is None else replace(outcome, scored=outcome.scored & ~outcome.given)


def _advantage(
    rewards: Tensor, scored: Tensor, config: PolicyGradientConfig, deviation: Tensor, baseline: float
) -> Tensor:
    match config.advantage:
        case "group_std":
            return advantages.group_std(rewards, scored, epsilon=config.std_epsilon)
        case "group_mean":
            return advantages.group_mean(rewards, scored)
        case "leave_one_out":
            return advantages.leave_one_out(rewards, scored)
        case "batch_std":
            return advantages.batch_std(rewards, scored, deviation, epsilon=config.std_epsilon)
        case "max_rl":
            return advantages.max_rl(rewards, scored)
        case "running_baseline":
            return advantages.running_baseline(rewards, scored, baseline)


def _all_scored(rewards: Sequence[Tensor], outcomes: Sequence[GroupOutcome]) -> Tensor:
    # [G] each, of different lengths
    kept = [values[outcome.scored] for values, outcome in zip(rewards, outcomes, strict=True)]
    return torch.cat(kept) if kept else torch.zeros(0, dtype=torch.float64)


def _trained(outcome: GroupOutcome, config: PolicyGradientConfig) -> Tensor:
    return outcome.scored & ~outcome.truncated if config.truncated == "mask" else outcome.scored
