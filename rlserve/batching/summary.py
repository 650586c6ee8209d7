"""Rewards, lengths and lag of the groups of one optimizer batch, for the log and the rule that ends a run early."""

from collections.abc import Sequence

import numpy as np

from rlserve.records import FinishReason, Outcome, RolloutGroup, Trajectory


def summarize(groups: Sequence[RolloutGroup], version: int) -> dict[str, float]:
    """Rewards, accuracy, lengths, lag and truncation; a number without data is left out.

    Rewards are as verified, before any shaping. A completion is right when its reward is at least 1 or its verdict is
    "pass"; there is no accuracy if a verdict is "scored". Lag is in versions, over sampled tokens, at weights
    ``version``.
    """
    trajectories = [t for group in groups for t in group.trajectories]
    if not trajectories:
        # Means of nothing are NaN, which JSON does not have.
        return {"batch/groups": 0.0, "batch/samples": 0.0}
    return {
        "batch/groups": float(len(groups)),
        "batch/samples": float(len(trajectories)),
        **_rewards(groups),
        **_lengths(trajectories),
        **_lags(trajectories, version),
    }


def is_right(trajectory: Trajectory) -> bool:
    """Whether the verdict counts as correct."""
    verdict = trajectory.verdict
    # Either one: plug-in verifiers may scale their rewards, or leave the outcome to the reward.
    return verdict is not None and verdict.has_reward and (verdict.outcome is Outcome.PASS or verdict.reward >= 1)


def is_scored(trajectory: Trajectory) -> bool:
    """Whether the verdict says neither right nor wrong, so that it has no place in an accuracy."""
    return trajectory.verdict is not None and trajectory.verdict.outcome is Outcome.SCORED


def _rewards(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    scored = [(g.task.environment, t) for g in groups for t in g.scored()]
    total = sum(len(g.trajectories) for g in groups)
    numbers = {"reward/no_verdict_share": 1 - len(scored) / total}
    if not scored:
        return numbers
    numbers |= _of_rewards("reward", [t for _, t in scored])
    # Sorted, so that metrics keep their order from step to step.
    for name in sorted({environment for environment, _ in scored}):
        own = [t for environment, t in scored if environment == name]
        numbers |= _of_rewards(f"reward/{name}", own)
    return numbers


def _of_rewards(prefix: str, scored: Sequence[Trajectory]) -> dict[str, float]:
    rewards = [t.verdict.reward for t in scored if t.verdict is not None]
    numbers = {f"{prefix}/mean": float(np.mean(rewards)), f"{prefix}/std": float(np.std(rewards))}
    if any(map(is_scored, scored)):
        return numbers
    return {**numbers, f"{prefix}/accuracy": float(np.mean([is_right(t) for t in scored]))}


def _lengths(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    lengths = np.array([t.num_sampled for t in trajectories])
    cut = [t.finish_reason is FinishReason.LENGTH for t in trajectories]
    return {
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "length/min": float(lengths.min()),
        "length/p95": float(np.percentile(lengths, 95)),
        "length/truncated_share": float(np.mean(cut)),
    }


def _lags(trajectories: Sequence[Trajectory], version: int) -> dict[str, float]:
    lags = version - np.concatenate([t.versions for t in trajectories])
    if not lags.size:
        return {}
    mixed = [len(t.policy_spans) > 1 for t in trajectories]  # weights changed while it was sampled
    return {
        "lag/mean": float(lags.mean()),
        "lag/p50": float(np.percentile(lags, 50)),
        "lag/max": float(lags.max()),
        "lag/mixed_version_share": float(np.mean(mixed)),
    }
