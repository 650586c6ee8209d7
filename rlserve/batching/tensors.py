"""Lays sequences out as the tensors of a micro-batch, padded or packed, by one table with a line for each field.

A new per-token field takes two lines: the field in ``algorithms.batch.TokenBatch`` and its ``Column`` here, which
reads it from a ``TrainingSequence`` (``s.on_tokens(...)`` for an array of the trajectory's sampled tokens).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.batching.sequences import Array, TrainingSequence
from rlserve.errors import InvalidRequest

Values = Array | float | None
"""``[T]`` or ``[T, K]``, or one value for all tokens, or None: blank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One field of ``TokenBatch`` that is made from the sequences."""

    dtype: type[np.generic]
    values: Callable[[TrainingSequence], Values]
    fill: float = 0
    """Value on padding, in fillers, and where ``values`` is None."""
    when: Callable[[TrainingSequence], bool] | None = None
    """The micro-batches have the field when this is true of any sequence; None: always."""
    numbers: bool = False
    """Values are numbers within the sequence: shifted, so that no two sequences of a micro-batch share one."""


def _is_taught(s: TrainingSequence) -> bool:
    return s.teacher is not None


def _has_spans(s: TrainingSequence) -> bool:
    return s.teacher is not None and len(s.teacher.span_lengths) > 0


def _has_top(s: TrainingSequence) -> bool:
    return s.teacher is not None and s.teacher.top_ids.shape[1] > 0


COLUMNS: Mapping[str, Column] = {
    "sequence_ids": Column(dtype=np.int64, fill=-1, values=lambda s: s.number),
    "group_ids": Column(dtype=np.int64, fill=-1, values=lambda s: s.assignment.group),
    "loss_mask": Column(dtype=np.float32, values=lambda s: s.loss_mask),
    "behavior_logprobs": Column(dtype=np.float32, values=lambda s: s.behavior_logprobs),
    "advantages": Column(dtype=np.float32, values=lambda s: s.loss_mask * np.float32(s.assignment.advantage)),
    "lag": Column(dtype=np.int64, values=lambda s: s.lag),
    "temperatures": Column(
        dtype=np.float32,
        fill=1,
        values=lambda s: s.trajectory.scored_temperature,
        when=lambda s: s.trajectory.scored_temperature != 1,
    ),
    "was_given": Column(dtype=np.bool_, values=lambda s: s.was_given, when=lambda s: s.was_given),
    "reference_logprobs": Column(
        dtype=np.float32,
        values=lambda s: s.of_reference("logprobs"),
        when=lambda s: s.of_reference("logprobs") is not None,
    ),
    "pair_ids": Column(dtype=np.int64, fill=-1, values=lambda s: s.assignment.pair),
    "preferred": Column(dtype=np.float32, values=lambda s: s.assignment.preferred),
    "weights": Column(dtype=np.float32, values=lambda s: s.assignment.weight),
    "supervised_mask": Column(
        dtype=np.float32, values=lambda s: s.supervised_mask, when=lambda s: s.supervised_mask is not None
    ),
    "teacher_mask": Column(dtype=np.float32, values=lambda s: s.teacher_mask, when=_is_taught),
    "teacher_logprobs": Column(dtype=np.float32, values=lambda s: s.of_teacher("logprobs"), when=_is_taught),
    "span_ids": Column(dtype=np.int64, fill=-1, values=lambda s: s.span_ids, when=_has_spans, numbers=True),
    # Per token, although it is one number per teacher: packed sequences may have different teachers.
    "shared_fraction": Column(
        dtype=np.float32, fill=1, values=lambda s: s.teacher.shared_fraction if s.teacher else None, when=_has_spans
    ),
    "teacher_top_ids": Column(dtype=np.int64, values=lambda s: s.of_teacher("top_ids"), when=_has_top),
    "teacher_top_logprobs": Column(
        dtype=np.float32, fill=-np.inf, values=lambda s: s.of_teacher("top_logprobs", -np.inf), when=_has_top
    ),
    "teacher_log_tail": Column(dtype=np.float32, values=lambda s: s.of_teacher("log_tail"), when=_has_top),
}
"""By name of the field; ``token_ids`` and ``position_ids`` are laid out by ``SequenceTable`` itself."""


class SequenceTable:
    """The columns of all sequences of an optimizer batch, from which its micro-batches are cut.

    All micro-batches have the same fields, fillers too: the optional ones are chosen once, from all sequences. Example,
    three sequences of 5, 9 and 4 tokens::

        table = SequenceTable(sequences)
        table.padded([0, 1]).token_ids.shape      # [2, 9]
        table.packed([0, 2]).token_ids.shape      # [1, 9]; positions 0..4, 0..3
        table.filler().token_ids.shape            # [1, 2]; loss_mask 0
    """

    def __init__(self, sequences: Sequence[TrainingSequence], pad_id: int = 0) -> None:
        self._token_ids = [s.trajectory.token_ids for s in sequences]
        self._pad_id = pad_id
        self._teacher_temperature = _teacher_temperature(sequences)
        self._columns = {
            name: (column, [column.values(s) for s in sequences])
            for name, column in COLUMNS.items()
            # Decided once for all micro-batches, fillers too: an algorithm's metrics follow from the fields, and ranks
            # reduce them by position.
            if column.when is None or any(map(column.when, sequences))
        }

    def padded(self, numbers: Sequence[int], width: int = 0) -> TokenBatch:
        """A sequence a row, padded on the right to the longest, or to ``width`` when that is more.

        Positions count on over the padding: restarted, they would mark a packed row. The causal mask alone keeps tokens
        from attending to padding.
        """
        lengths = [len(self._token_ids[number]) for number in numbers]
        width = max(width, *lengths)
        # [B, T]
        positions = np.tile(np.arange(width), (len(numbers), 1))
        places = [(row, slice(0, length)) for row, length in enumerate(lengths)]
        return self._batch(numbers, places, positions)

    def packed(self, numbers: Sequence[int]) -> TokenBatch:
        """All sequences in one row; positions restart with each of them."""
        lengths = [len(self._token_ids[number]) for number in numbers]
        # [1, T]
        positions = np.concatenate([np.arange(length) for length in lengths])[None]
        ends = np.cumsum(lengths).tolist()
        places = [(0, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
        return self._batch(numbers, places, positions)

    def filler(self) -> TokenBatch:
        """A micro-batch of two blank tokens, for a rank with fewer micro-batches than the others."""
        # Two: a single token predicts nothing.
        return self._batch([], [], np.arange(2)[None])

    def _batch(self, numbers: Sequence[int], places: Sequence[tuple[int, slice]], positions: Array) -> TokenBatch:
        def laid_out(column: Column, values: Sequence[Values]) -> Tensor:
            shape = (*positions.shape, *_widest(values))
            laid = np.full(shape, column.fill, dtype=column.dtype)  # what is not written below stays blank
            before = 0
            for number, (row, tokens) in zip(numbers, places, strict=True):
                value = values[number]
                if column.numbers and isinstance(value, np.ndarray):
                    # spans of this sequence are numbered behind those of the sequences before it
                    value = np.where(value < 0, value, value + before)
                # A sequence has at most as many spans as tokens, so that this offset keeps the numbers apart.
                before += len(self._token_ids[number])
                # [T, K]: teachers may return fewer than the widest K, and the rest stays fill.
                if isinstance(value, np.ndarray) and value.ndim == 2:
                    laid[row, tokens, : value.shape[1]] = value
                elif value is not None:
                    laid[row, tokens] = value
            return torch.from_numpy(laid)

        fields: dict[str, Any] = {name: laid_out(column, values) for name, (column, values) in self._columns.items()}
        return TokenBatch(
            token_ids=laid_out(Column(dtype=np.int64, fill=self._pad_id, values=lambda s: None), self._token_ids),
            position_ids=torch.from_numpy(positions),
            teacher_temperature=self._teacher_temperature,
            **fields,
        )


def _widest(values: Sequence[Values]) -> tuple[int, ...]:
    """``(K,)`` of the widest ``[T, K]`` among all sequences of the batch; ``()`` for a value a token."""
    widths = [value.shape[1] for value in values if isinstance(value, np.ndarray) and value.ndim == 2]
    return (max(widths),) if widths else ()


def _teacher_temperature(sequences: Sequence[TrainingSequence]) -> float:
    """Temperature of the batch's top Ks; 1 without any. Raises InvalidRequest for several."""
    temperatures = sorted({s.teacher.temperature for s in sequences if s.teacher and _has_top(s)})
    if len(temperatures) > 1:
        raise InvalidRequest(f"teacher_scores.temperature: are {temperatures} in one batch; score all at one")
    return temperatures[0] if temperatures else 1.0
