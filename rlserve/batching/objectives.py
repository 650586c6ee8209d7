"""What a row carries for objectives other than reward: a teacher's scores, weights of supervised tokens.

Shape letters: T tokens of a sequence, S sampled ones among them, K tokens of a teacher's support.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rlserve.records import TeacherScores, Trajectory

POLICY, SUPERVISED, DISTILLATION = "policy", "supervised", "distillation"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherRow:
    """A teacher's scores on one sequence."""

    mask: npt.NDArray[np.float32]
    """``[T]`` 1 on scored tokens."""
    logprobs: npt.NDArray[np.float32]
    """``[T]``."""
    span_ids: npt.NDArray[np.int64]
    """``[T]`` from 0 in each sequence; -1 for no span."""
    top_ids: npt.NDArray[np.int64]
    """``[T, K]``."""
    top_logprobs: npt.NDArray[np.float32]
    """``[T, K]``; -infinity where there is no entry."""
    log_tail: npt.NDArray[np.float32]
    """``[T]``."""
    has_spans: bool = False
    matched_share: float = 1.0
    temperature: float = 1.0


def token_weights(trajectory: Trajectory, objective: str, otherwise: float) -> npt.NDArray[np.float32]:
    """``[T]`` weights under an objective; ``otherwise`` on sampled tokens when the trajectory names none.

    The first token is never trained on: nothing predicts it.
    """
    sampled = trajectory.sampled_mask.astype(np.float32)
    named = [o.weights for o in trajectory.objective_weights if o.objective == objective]
    weights = sampled * otherwise
    if named:
        weights = sampled * named[0][0] if len(named[0]) == 1 else named[0].astype(np.float32)
    weights[:1] = 0
    return weights


def scores_of(trajectory: Trajectory, teacher: str) -> TeacherScores | None:
    """The scores of the teacher of that name; None without."""
    return next((scores for scores in trajectory.teacher_scores if scores.teacher == teacher), None)


def taught_by(trajectory: Trajectory, reference: str = "") -> TeacherScores | None:
    """The scores to distil from: the first that are not the reference's; None without any."""
    return next((scores for scores in trajectory.teacher_scores if scores.teacher != reference), None)


def reference_row(trajectory: Trajectory, reference: str) -> npt.NDArray[np.float32] | None:
    """``[T]`` log-probabilities under the served reference; None without one."""
    scores = scores_of(trajectory, reference) if reference else None
    if scores is None:
        return None
    places = np.flatnonzero(trajectory.sampled_mask)
    return _laid(scores.logprobs, places, len(trajectory.token_ids), 0.0)


def teacher_row(trajectory: Trajectory, reference: str = "") -> TeacherRow | None:
    """The teacher's scores laid on the sequence; None without any."""
    scores = taught_by(trajectory, reference)
    if scores is None:
        return None
    length = len(trajectory.token_ids)
    places = np.flatnonzero(trajectory.sampled_mask)
    span_ids = np.full(length, -1, dtype=np.int64)
    mask = token_weights(trajectory, DISTILLATION, 1.0)
    if len(scores.span_lengths):
        spans = np.repeat(np.arange(len(scores.span_lengths)), scores.span_lengths)
        span_ids[places[: len(spans)]] = spans
        mask[span_ids < 0] = 0
        if scores.top_ids.shape[1]:  # the loss of a span is at its last token
            mask[:-1][span_ids[:-1] == span_ids[1:]] = 0
    return TeacherRow(
        mask=mask,
        logprobs=_laid(scores.logprobs, places, length, 0.0),
        span_ids=span_ids,
        top_ids=_laid(scores.top_ids, places, length, 0),
        top_logprobs=_laid(scores.top_logprobs, places, length, -np.inf),
        log_tail=_laid(_tail(scores), places, length, 0.0),
        has_spans=len(scores.span_lengths) > 0,
        matched_share=scores.matched_share,
        temperature=scores.temperature,
    )


def support_size(rows: Iterable[TeacherRow | None]) -> int:
    """Largest K."""
    return max((row.top_ids.shape[1] for row in rows if row is not None), default=0)


def blank(length: int, size: int) -> TeacherRow:
    """No scores on any token."""
    return TeacherRow(
        mask=np.zeros(length, dtype=np.float32),
        logprobs=np.zeros(length, dtype=np.float32),
        span_ids=np.full(length, -1, dtype=np.int64),
        top_ids=np.zeros((length, size), dtype=np.int64),
        top_logprobs=np.full((length, size), -np.inf, dtype=np.float32),
        log_tail=np.zeros(length, dtype=np.float32),
    )


def _tail(scores: TeacherScores) -> npt.NDArray[np.float32]:
    return scores.log_tail if len(scores.log_tail) else np.zeros(len(scores.logprobs), dtype=np.float32)


def _laid(values: npt.NDArray[Any], places: npt.NDArray[np.intp], length: int, fill: float) -> npt.NDArray[Any]:
    """``[S, ...] -> [T, ...]``."""
    laid = np.full((length, *values.shape[1:]), fill, dtype=values.dtype)
    laid[places] = values
    return laid
