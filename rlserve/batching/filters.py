"""Why a group is dropped instead of trained on, and what an algorithm sees of a group."""

import hashlib

import numpy as np
import torch

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
    return trajectory.num_sampled > 0 and trajectory.finish_reason is not FinishReason.ABORT


def is_example(trajectory: Trajectory) -> bool:
    """Whether it has tokens of the supervised objective."""
    weights = trajectory.objective_weights
    return bool(weights) and any(o.objective == SUPERVISED and bool((o.weights > 0).any()) for o in weights)


def outcome(group: RolloutGroup, *, max_new_tokens: int, reference: str = "") -> GroupOutcome:
    """The group as an algorithm sees it; ``max_new_tokens`` is the run's limit, the task may set its own.

    Scores of the teacher ``reference`` are not distilled.
    """
    lengths = [t.num_sampled for t in group.trajectories]
    reasons = [t.finish_reason for t in group.trajectories]
    usable = [n > 0 and reason is not FinishReason.ABORT for n, reason in zip(lengths, reasons, strict=True)]
    # A verdict on an unusable completion must not enter the baseline of the others.
    verdicts = [t.verdict if kept else None for t, kept in zip(group.trajectories, usable, strict=True)]
    rewards = [v.reward if v is not None and v.has_reward else None for v in verdicts]
    # One tensor a type, then its rows: creating a tensor costs microseconds, and this runs for every received group.
    numbers = (
        lengths,
        [_ROLE[t.preference_role] for t in group.trajectories],
        [t.pair_index for t in group.trajectories],
    )
    marks = (
        [reward is not None for reward in rewards],
        [reason is FinishReason.LENGTH for reason in reasons],
        [kept and taught_by(t, reference) is not None for t, kept in zip(group.trajectories, usable, strict=True)],
        [reason is FinishReason.GIVEN for reason in reasons],
        [is_example(t) for t in group.trajectories],
    )
    lengths_row, roles, pair_numbers = torch.from_numpy(np.array(numbers, dtype=np.int64))
    scored, truncated, taught, given, supervised = torch.from_numpy(np.array(marks, dtype=np.bool_))
    return GroupOutcome(
        # float64: advantages are differences of rewards, and equal rewards must stay equal after shaping.
        rewards=torch.from_numpy(np.array([0.0 if reward is None else reward for reward in rewards], dtype=np.float64)),
        scored=scored,
        lengths=lengths_row,
        truncated=truncated,
        length_limit=group.task.sampling.max_new_tokens or max_new_tokens,
        mode=group.task.labels.get("mode", ""),
        roles=roles,
        pair_numbers=pair_numbers,
        taught=taught,
        given=given,
        supervised=supervised,
        # a stable digest, since hash() of a string differs between processes; 7 bytes fit into an int64
        seed=int.from_bytes(hashlib.blake2b(group.group_id.encode(), digest_size=7).digest(), "big"),
    )
