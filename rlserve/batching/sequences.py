"""One sequence of the optimizer batch: a trajectory, what it is trained for, and its values token by token.

Shape letters: T tokens of the sequence, S sampled ones among them, K tokens of a teacher's top.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rlserve.algorithms.batch import Assignment
from rlserve.records import FinishReason, TeacherScores, Trajectory

POLICY, SUPERVISED, DISTILLATION = "policy", "supervised", "distillation"
"""Objectives whose token weights a trajectory may carry."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSequence:
    """A trajectory as it is assigned to the batch. Arrays are made once, when a column first asks for them.

    Example, a prompt P, two sampled answers A and an environment turn E, trained on weights 9::

        token_ids    P0 P1 A0 A1 E0 A2
        loss_mask     0  0  1  1  0  1
        lag           0  0  2  2  0  1        # sampled under versions 7, 7 and 8
    """

    trajectory: Trajectory
    assignment: Assignment
    number: int
    """Position in the optimizer batch."""
    version: int
    """Version of the weights in training."""
    max_token_lag: int | None = None
    """Tokens older than this many versions are masked from the policy's objective; None: no token is."""
    reference_teacher: str = ""
    """Name of the teacher that serves the reference model; empty without one."""

    def __len__(self) -> int:
        return len(self.trajectory.token_ids)

    @property
    def was_given(self) -> bool:
        """Whether the completion came with the task: its behaviour log-probabilities are unknown."""
        return self.trajectory.finish_reason is FinishReason.GIVEN

    @cached_property
    def places(self) -> npt.NDArray[np.intp]:
        """``[S]`` positions of the sampled tokens."""
        return np.flatnonzero(self.trajectory.sampled_mask)

    @cached_property
    def lag(self) -> npt.NDArray[np.int64]:
        """``[T]`` versions between the weights in training and those that sampled the token."""
        return _first_zeroed(self.on_tokens(self.version - self.trajectory.versions))

    @cached_property
    def behavior_logprobs(self) -> npt.NDArray[np.float32]:
        """``[T]``, 0 on tokens that were not sampled."""
        return _first_zeroed(self.on_tokens(self.trajectory.behavior_logprobs))

    @cached_property
    def loss_mask(self) -> npt.NDArray[np.float32]:
        """``[T]`` weights under the policy's objective."""
        mask = self.token_weights(POLICY, 1.0)
        if self.max_token_lag is not None:
            # The policy's objective alone: distillation and imitation do not depend on which weights sampled.
            mask[self.lag > self.max_token_lag] = 0
        return mask if self.assignment.trains_policy else np.zeros_like(mask)

    @cached_property
    def supervised_mask(self) -> npt.NDArray[np.float32] | None:
        """``[T]`` weights under the supervised objective; None when all are 0."""
        weights = self.token_weights(SUPERVISED, 0.0)
        return weights if weights.any() else None

    @cached_property
    def teacher(self) -> TeacherScores | None:
        """The scores to distil from; None without any."""
        return taught_by(self.trajectory, self.reference_teacher)

    @cached_property
    def span_ids(self) -> npt.NDArray[np.int64] | None:
        """``[T]`` number of the teacher's span, from 0; -1 without one. Without spans each scored token is a span."""
        if self.teacher is None:
            return None
        lengths = self.teacher.span_lengths
        # One tokenizer on both sides: each token is its own span.
        if not len(lengths):
            return np.where(self._scored_weights > 0, np.arange(len(self)), -1)
        ids = np.full(len(self), -1, dtype=np.int64)
        spans = np.repeat(np.arange(len(lengths)), lengths)
        # Spans run over sampled tokens from the first; those behind the last span were not aligned and keep -1.
        ids[self.places[: len(spans)]] = spans
        return ids

    @cached_property
    def teacher_mask(self) -> npt.NDArray[np.float32] | None:
        """``[T]`` weights under distillation of the tokens that the teacher scored; None without scores."""
        if self.teacher is None or self.span_ids is None:
            return None
        mask = self._scored_weights.copy()
        if len(self.teacher.span_lengths):
            # Tokens without a span have no score of the teacher.
            mask[self.span_ids < 0] = 0
            if self.teacher.top_ids.shape[1]:
                # The divergence of a span is computed at its last token, so only that token stays in the mask.
                mask[:-1][self.span_ids[:-1] == self.span_ids[1:]] = 0
        return mask

    @cached_property
    def _scored_weights(self) -> npt.NDArray[np.float32]:
        return self.token_weights(DISTILLATION, 1.0)

    def token_weights(self, objective: str, otherwise: float) -> npt.NDArray[np.float32]:
        """``[T]`` weights under an objective; ``otherwise`` on sampled tokens when the trajectory names none.

        The first token has weight 0: nothing predicts it.
        """
        sampled = self.trajectory.sampled_mask.astype(np.float32)
        named = [o.weights for o in self.trajectory.objective_weights if o.objective == objective]
        weights = sampled * otherwise
        if named:
            # one weight stands for all sampled tokens; astype copies, so clearing the first changes no record
            weights = sampled * named[0][0] if len(named[0]) == 1 else named[0].astype(np.float32)
        return _first_zeroed(weights)

    def on_tokens(self, values: Array, fill: float = 0) -> Array:
        """``[S, ...] -> [T, ...]``: values of the sampled tokens at their positions, ``fill`` on the others."""
        whole = np.full((len(self), *values.shape[1:]), fill, dtype=values.dtype)
        whole[self.places] = values
        return whole

    def of_teacher(self, field: str, fill: float = 0) -> Array | None:
        """``[T, ...]`` an array ``[S, ...]`` of the teacher's scores; None without scores, or where it is empty."""
        return self._of(self.teacher, field, fill)

    def of_reference(self, field: str) -> Array | None:
        """``[T, ...]`` an array of the served reference's scores; None without them."""
        scores = scores_of(self.trajectory, self.reference_teacher) if self.reference_teacher else None
        return self._of(scores, field, 0)

    def _of(self, scores: TeacherScores | None, field: str, fill: float) -> Array | None:
        values: Array | None = None if scores is None else getattr(scores, field)
        # empty: a teacher without a top K sends no ids, no log-probabilities and no tail
        return None if values is None or not values.size else self.on_tokens(values, fill)


def scores_of(trajectory: Trajectory, teacher: str) -> TeacherScores | None:
    """The scores of the teacher of that name; None without."""
    return next((scores for scores in trajectory.teacher_scores if scores.teacher == teacher), None)


def taught_by(trajectory: Trajectory, reference: str = "") -> TeacherScores | None:
    """The scores to distil from: the first that are not the reference's; None without any."""
    return next((scores for scores in trajectory.teacher_scores if scores.teacher != reference), None)


def _first_zeroed(values: Array) -> Array:
    """Set the value of the first token, which nothing predicts, to 0."""
    values[:1] = 0
    return values
