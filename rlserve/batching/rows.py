"""One sequence as arrays, and several as the tensors of a micro-batch.

Shape letters: T tokens of a sequence, S sampled ones among them, B rows of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlserve.algorithms.batch import Assignment, TokenBatch
from rlserve.records import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One sequence of the optimizer batch; every array is ``[T]``."""

    token_ids: npt.NDArray[np.int64]
    loss_mask: npt.NDArray[np.float32]
    behavior_logprobs: npt.NDArray[np.float32]
    lag: npt.NDArray[np.int64]
    advantage: float
    pair: int
    """Number of its pair; -1 for none."""
    preferred: bool
    weight: float
    sequence: int
    """Number in the optimizer batch; -1 for a filler."""
    group: int
    """Number of its group in the optimizer batch; -1 for a filler."""


_NOTHING = np.zeros(2, dtype=np.float32)
EMPTY = Row(
    token_ids=np.zeros(2, dtype=np.int64),
    loss_mask=_NOTHING,
    behavior_logprobs=_NOTHING,
    lag=np.zeros(2, dtype=np.int64),
    advantage=0.0,
    pair=-1,
    preferred=False,
    weight=0.0,
    sequence=-1,
    group=-1,
)
"""Fills a rank's missing micro-batch: two tokens, none trained on."""


def row_of(groups: Sequence[RolloutGroup], assignment: Assignment, sequence: int, version: int) -> Row:
    """The arrays of an assigned trajectory. The first token is never trained on: nothing predicts it."""
    trajectory = groups[assignment.group].trajectories[assignment.member]
    sampled = trajectory.sampled_mask
    tokens = len(trajectory.token_ids)
    logprobs = np.zeros(tokens, dtype=np.float32)
    logprobs[sampled] = trajectory.behavior_logprobs
    lag = np.zeros(tokens, dtype=np.int64)
    lag[sampled] = version - trajectory.versions
    mask = sampled.astype(np.float32)
    for array in (mask, logprobs, lag):
        array[0] = 0
    return Row(
        token_ids=trajectory.token_ids,
        loss_mask=mask,
        behavior_logprobs=logprobs,
        lag=lag,
        advantage=assignment.advantage,
        pair=assignment.pair,
        preferred=assignment.preferred,
        weight=assignment.weight,
        sequence=sequence,
        group=assignment.group,
    )


def padded_batch(rows: Sequence[Row], pad_id: int) -> TokenBatch:
    """A sequence a row, padded on the right to the longest.

    Positions go on counting over the padding, so the plain causal mask is enough: no token sees padding.
    """
    width = max(len(row.token_ids) for row in rows)

    def stack(values: Callable[[Row], npt.NDArray[np.generic]], fill: float) -> Tensor:
        padded = [np.pad(values(r), (0, width - len(r.token_ids)), constant_values=fill) for r in rows]
        return torch.from_numpy(np.stack(padded))

    positions = torch.arange(width).expand(len(rows), width).contiguous()
    return _batch(stack, positions, pad_id)


def packed_batch(rows: Sequence[Row], pad_id: int) -> TokenBatch:
    """All sequences in one row; positions restart with each of them."""

    def join(values: Callable[[Row], npt.NDArray[np.generic]], fill: float) -> Tensor:
        return torch.from_numpy(np.concatenate([values(r) for r in rows])[None])

    positions = torch.from_numpy(np.concatenate([np.arange(len(r.token_ids)) for r in rows])[None])
    return _batch(join, positions, pad_id)


def _batch(
    joined: Callable[[Callable[[Row], npt.NDArray[np.generic]], float], Tensor], positions: Tensor, pad_id: int
) -> TokenBatch:
    return TokenBatch(
        token_ids=joined(lambda r: r.token_ids, pad_id),
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
    )


def _constant(row: Row, value: float, dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.full(len(row.token_ids), value, dtype=dtype)
