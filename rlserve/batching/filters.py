"""Why a group is dropped instead of trained on, and what an algorithm sees of a group."""

import functools
import hashlib

import numpy as np
import torch
from torch import Tensor

from rlserve.algorithms.base import Algorithm
from rlserve.algorithms.batch import GroupOutcome
from rlserve.batching.sequences import SUPERVISED, scores_of, taught_by
from rlserve.records import FinishReason, PreferenceRole, RolloutGroup, Trajectory

_ROLE = {PreferenceRole.NONE: 0, PreferenceRole.CHOSEN: 1, PreferenceRole.REJECTED: -1}


def why_drop(group: RolloutGroup, algorithm: Algorithm, *, reference: str = "") -> str | None:
    """One word, for counters, why the group is dropped; None to train on it.

    ``"empty"``: no trajectory has sampled tokens or is an example; ``"no_reference"``: the teacher ``reference`` (empty
    when none is needed) did not score every trajectory. Other words come from the algorithm, such as ``"no_verdict"``
    and ``"zero_variance"``.
    """
    if not any(usable(trajectory) or is_example(trajectory) for trajectory in group.trajectories):
        # Before the algorithm's own reasons: without sampled tokens those would blame the rewards.
        return "empty"
    if reference and not all(scores_of(t, reference) for t in group.trajectories if t.num_sampled):
        return "no_reference"
    # 0: no reason for a drop depends on the length limit, only penalties do.
    return algorithm.why_drop(outcome(group, max_new_tokens=0, reference=reference))


def usable(trajectory: Trajectory) -> bool:
    """Whether it has sampled tokens and was not aborted."""
    # An aborted completion is cut anywhere: neither its reward nor its end is the policy's.
    return trajectory.finish_reason is not FinishReason.ABORT and trajectory.num_sampled > 0


def is_example(trajectory: Trajectory) -> bool:
    """Whether it has tokens of the supervised objective."""
    weights = trajectory.objective_weights
    return bool(weights) and any(o.objective == SUPERVISED and bool((o.weights > 0).any()) for o in weights)


def outcome(group: RolloutGroup, *, max_new_tokens: int, reference: str = "") -> GroupOutcome:
    """The group as an algorithm sees it; ``max_new_tokens`` is the run's limit, the task may set its own.

    Scores of the teacher ``reference`` are not distilled.
    """
    rows = [_row(trajectory, reference) for trajectory in group.trajectories]
    rewards, scored, lengths, truncated, roles, pair_numbers, taught, given, supervised = zip(*rows, strict=True)
    return GroupOutcome(
        # float64: advantages are differences of rewards, and equal rewards must stay equal after shaping.
        rewards=_column(rewards, "float64"),
        scored=_column(scored, "bool"),
        lengths=_column(lengths, "int64"),
        truncated=_column(truncated, "bool"),
        length_limit=group.task.sampling.max_new_tokens or max_new_tokens,
        mode=group.task.labels.get("mode", ""),
        roles=_column(roles, "int64"),
        pair_numbers=_column(pair_numbers, "int64"),
        taught=_column(taught, "bool"),
        given=_column(given, "bool"),
        supervised=_column(supervised, "bool"),
        # a stable digest, since hash() of a string differs between processes; 7 bytes fit into an int64
        seed=int.from_bytes(hashlib.blake2b(group.group_id.encode(), digest_size=7).digest(), "big"),
    )


def _row(trajectory: Trajectory, reference: str) -> tuple[float, bool, int, bool, int, int, bool, bool, bool]:
    """What one trajectory adds to each tensor of the outcome."""
    reason, verdict, kept = trajectory.finish_reason, trajectory.verdict, usable(trajectory)
    # A verdict on an unusable completion must not enter the baseline of the others.
    scored = kept and verdict is not None and verdict.has_reward
    return (
        verdict.reward if scored and verdict is not None else 0.0,
        scored,
        trajectory.num_sampled,
        reason is FinishReason.LENGTH,
        _ROLE[trajectory.preference_role],
        trajectory.pair_index,
        kept and taught_by(trajectory, reference) is not None,
        reason is FinishReason.GIVEN,
        is_example(trajectory),
    )


def _column(values: tuple[float, ...], dtype: str) -> Tensor:
    """``[G]``; it may be shared between groups, so nothing may write to it."""
    # Of most groups most columns are 0 everywhere, and to create a tensor costs microseconds for every received group.
    return torch.from_numpy(np.array(values, dtype=dtype)) if any(values) else _zeros(len(values), dtype)


@functools.lru_cache(maxsize=1024)  # a group size and its types; any size will do that holds those of a mixture
def _zeros(count: int, dtype: str) -> Tensor:
    return torch.from_numpy(np.zeros(count, dtype=dtype))
