"""One sequence of the optimizer batch as arrays. Shape letter: T tokens of the sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlserve.algorithms.batch import Assignment
from rlserve.batching import objectives
from rlserve.batching.objectives import TeacherRow
from rlserve.records import FinishReason, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One sequence of the optimizer batch; every array is ``[T]``."""

    token_ids: npt.NDArray[np.int64]
    loss_mask: npt.NDArray[np.float32]
    behavior_logprobs: npt.NDArray[np.float32]
    lag: npt.NDArray[np.int64]
    supervised_mask: npt.NDArray[np.float32]
    advantage: float = 0.0
    pair: int = -1
    """Number of its pair; -1 for none."""
    preferred: bool = False
    weight: float = 0.0
    sequence: int = -1
    """Number in the optimizer batch; -1 for a filler."""
    group: int = -1
    """Number of its group in the optimizer batch; -1 for a filler."""
    teacher: TeacherRow | None = None
    reference_logprobs: npt.NDArray[np.float32] | None = None
    """``[T]`` when a served reference scored it."""
    given: bool = False
    """Somebody else wrote it."""
    temperature: float = 1.0
    """At which it was sampled."""


_NOTHING = np.zeros(2, dtype=np.float32)
EMPTY = Row(
    token_ids=np.zeros(2, dtype=np.int64),
    loss_mask=_NOTHING,
    behavior_logprobs=_NOTHING,
    lag=np.zeros(2, dtype=np.int64),
    supervised_mask=_NOTHING,
)
"""Fills a rank's missing micro-batch: two tokens, none trained on."""


def row_of(
    groups: Sequence[RolloutGroup],
    assignment: Assignment,
    sequence: int,
    version: int,
    max_token_lag: int | None = None,
    reference: str = "",
) -> Row:
    """The arrays of an assigned trajectory; tokens older than ``max_token_lag`` are not trained on by reward.

    ``reference`` names the teacher that serves the reference model; empty when none does.
    """
    trajectory = groups[assignment.group].trajectories[assignment.member]
    sampled = trajectory.sampled_mask
    tokens = len(trajectory.token_ids)
    logprobs = np.zeros(tokens, dtype=np.float32)
    logprobs[sampled] = trajectory.behavior_logprobs
    lag = np.zeros(tokens, dtype=np.int64)
    lag[sampled] = version - trajectory.versions
    logprobs[:1] = lag[:1] = 0
    mask = objectives.token_weights(trajectory, objectives.POLICY, 1.0)
    if max_token_lag is not None:
        mask[lag > max_token_lag] = 0
    return Row(
        token_ids=trajectory.token_ids,
        loss_mask=mask if assignment.trains_policy else np.zeros_like(mask),
        behavior_logprobs=logprobs,
        lag=lag,
        supervised_mask=objectives.token_weights(trajectory, objectives.SUPERVISED, 0.0),
        advantage=assignment.advantage,
        pair=assignment.pair,
        preferred=assignment.preferred,
        weight=assignment.weight,
        sequence=sequence,
        group=assignment.group,
        teacher=objectives.teacher_row(trajectory, reference),
        reference_logprobs=objectives.reference_row(trajectory, reference),
        given=trajectory.finish_reason is FinishReason.GIVEN,
        temperature=trajectory.scored_temperature,
    )
