"""Rows to the tensors of a micro-batch, padded or packed.

All micro-batches of an optimizer batch have the same fields, fillers too: ``Fields`` is decided once for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.batching import objectives
from rlserve.batching.objectives import TeacherRow
from rlserve.batching.rows import Row
from rlserve.errors import InvalidRequest

Values = Callable[[Row], npt.NDArray[Any]]
Joiner = Callable[[Values, float], Tensor]
"""(array of each row, fill for padding) -> tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which optional fields the micro-batches have."""

    teacher: bool = False
    support: int = 0
    """K of the teacher's top K."""
    spans: bool = False
    teacher_temperature: float = 1.0
    supervised: bool = False
    reference: bool = False
    given: bool = False
    temperatures: bool = False
    """Some sequence was sampled at another temperature than 1."""
    pad_id: int = 0


def fields_of(rows: Sequence[Row], pad_id: int) -> Fields:
    """The fields that these rows need. Raises InvalidRequest for top Ks at different temperatures."""
    teachers = [row.teacher for row in rows if row.teacher is not None]
    temperatures = sorted({teacher.temperature for teacher in teachers if objectives.support_size([teacher])})
    if len(temperatures) > 1:
        raise InvalidRequest(f"teacher_scores.temperature: are {temperatures} in one batch; score all at one")
    return Fields(
        teacher=bool(teachers),
        support=objectives.support_size(teachers),
        spans=any(teacher.has_spans for teacher in teachers),
        teacher_temperature=temperatures[0] if temperatures else 1.0,
        supervised=any(bool(row.supervised_mask.any()) for row in rows),
        reference=any(row.reference_logprobs is not None for row in rows),
        given=any(row.given for row in rows),
        temperatures=any(row.temperature != 1 for row in rows),
        pad_id=pad_id,
    )


def padded_batch(rows: Sequence[Row], fields: Fields, width: int = 0) -> TokenBatch:
    """A sequence a row, padded on the right to the longest, or to ``width`` when that is more.

    Positions go on counting over the padding, so the plain causal mask is enough: no token sees padding.
    """
    width = max(width, *(len(row.token_ids) for row in rows))

    def stack(values: Values, fill: float) -> Tensor:
        arrays = [values(row) for row in rows]
        padded = [np.pad(a, [(0, width - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=fill) for a in arrays]
        return torch.from_numpy(np.stack(padded))

    positions = torch.arange(width).expand(len(rows), width).contiguous()
    return _batch(rows, stack, positions, fields)


def packed_batch(rows: Sequence[Row], fields: Fields) -> TokenBatch:
    """All sequences in one row; positions restart with each of them."""

    def join(values: Values, fill: float) -> Tensor:
        return torch.from_numpy(np.concatenate([values(row) for row in rows])[None])

    positions = torch.from_numpy(np.concatenate([np.arange(len(row.token_ids)) for row in rows])[None])
    return _batch(rows, join, positions, fields)


def _batch(rows: Sequence[Row], joined: Joiner, positions: Tensor, fields: Fields) -> TokenBatch:
    optional: dict[str, Any] = _teacher_fields(rows, joined, fields) if fields.teacher else {}
    if fields.supervised:
        optional["supervised_mask"] = joined(lambda r: r.supervised_mask, 0)
    if fields.reference:
        optional["reference_logprobs"] = joined(_reference_logprobs, 0)
    if fields.given:
        optional["was_given"] = joined(lambda r: _constant(r, r.given, np.bool_), 0)
    if fields.temperatures:
        optional["temperatures"] = joined(lambda r: _constant(r, r.temperature, np.float32), 1)
    return TokenBatch(
        token_ids=joined(lambda r: r.token_ids, fields.pad_id),
        position_ids=positions,
        sequence_ids=joined(lambda r: _constant(r, r.sequence, np.int64), -1),
        group_ids=joined(lambda r: _constant(r, r.group, np.int64), -1),
        loss_mask=joined(lambda r: r.loss_mask, 0),
        behavior_logprobs=joined(lambda r: r.behavior_logprobs, 0),
        advantages=joined(lambda r: r.loss_mask * np.float32(r.advantage), 0),
        lag=joined(lambda r: r.lag, 0),
        pair_ids=joined(lambda r: _constant(r, r.pair, np.int64), -1),
        preferred=joined(lambda r: _constant(r, r.preferred, np.float32), 0),
        weights=joined(lambda r: _constant(r, r.weight, np.float32), 0),
        **optional,
    )


def _reference_logprobs(row: Row) -> npt.NDArray[np.float32]:
    return np.zeros(len(row.token_ids), np.float32) if row.reference_logprobs is None else row.reference_logprobs


def _teacher_fields(rows: Sequence[Row], joined: Joiner, fields: Fields) -> dict[str, Any]:
    teachers = {id(row): row.teacher or objectives.blank(len(row.token_ids), fields.support) for row in rows}

    def of(values: Callable[[TeacherRow], npt.NDArray[Any]], fill: float) -> Tensor:
        return joined(lambda row: values(teachers[id(row)]), fill)

    made: dict[str, Any] = {
        "teacher_mask": of(lambda t: t.mask, 0),
        "teacher_logprobs": of(lambda t: t.logprobs, 0),
        "teacher_temperature": fields.teacher_temperature,
    }
    if fields.spans:
        starts = dict(zip(map(id, rows), np.cumsum([0] + [len(r.token_ids) for r in rows]), strict=False))
        made["span_ids"] = joined(lambda r: _numbered(teachers[id(r)], int(starts[id(r)])), -1)
        made["span_mask"] = (made["span_ids"] >= 0).to(torch.float32)
        made["matched_share"] = joined(lambda r: _constant(r, teachers[id(r)].matched_share, np.float32), 1)
    if fields.support:
        made |= {
            "teacher_top_ids": of(lambda t: _widened(t.top_ids, fields.support, 0), 0),
            "teacher_top_logprobs": of(lambda t: _widened(t.top_logprobs, fields.support, -np.inf), -np.inf),
            "teacher_log_tail": of(lambda t: t.log_tail, 0),
        }
    return made


def _numbered(teacher: TeacherRow, start: int) -> npt.NDArray[np.int64]:
    """Span numbers that no other row of the micro-batch has; tokens of a teacher without spans are spans of one."""
    own = teacher.span_ids
    if not teacher.has_spans:
        own = np.where(teacher.mask > 0, np.arange(len(teacher.mask)), -1)
    return np.where(own < 0, own, own + start)


def _widened(values: npt.NDArray[Any], size: int, fill: float) -> npt.NDArray[Any]:
    return np.pad(values, [(0, 0), (0, size - values.shape[1])], constant_values=fill)


def _constant(row: Row, value: float, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.full(len(row.token_ids), value, dtype=dtype)
