"""How a model makes logits of hidden states, and what is asked of them.

Shape letters: N tokens, H size of a hidden state, V vocabulary, C tokens of a chunk, W columns of a block of the
vocabulary, K tokens of a teacher's support.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlserve.memory.formulas import COMPILED_HEAD_ELEMENT, HEAD_ELEMENT, HEAD_WORK_BYTES

Record = TypeVar("Record")
ROUND_TO = 128
"""Chunks and blocks are multiples of it: GPU kernels work on tiles of that size."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """How logits are made of hidden states: ``cap(scale * (h W' + b))``."""

    weight: Tensor | None = None
    """``[V, H]``; None: the hidden states are the logits."""
    bias: Tensor | None = None
    """``[V]``."""
    scale: float = 1.0
    softcap: float | None = None
    """Logits are squeezed into -softcap to softcap by a tanh; None: they are not."""
    work_bytes: int = HEAD_WORK_BYTES
    compiled: bool = False
    """The elementwise work of a chunk runs as kernels that ``torch.compile`` makes."""

    def raw(self, hidden: Tensor, columns: slice | None = None) -> Tensor:
        """``[C, W]`` of ``[C, H]``: products with the weights, before scale and cap."""
        if self.weight is None:
            return hidden if columns is None else hidden[:, columns]
        weight = self.weight if columns is None else self.weight[columns]
        bias = self.bias if columns is None or self.bias is None else self.bias[columns]
        return torch.nn.functional.linear(hidden, weight, bias)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[C, V]`` of ``[C, H]``, in float32 (float64 if the hidden states are)."""
        return squeezed(self.raw(hidden), self.scale, self.softcap)

    def vocabulary(self, hidden: Tensor) -> int:
        """Columns of the logits."""
        return hidden.shape[-1] if self.weight is None else len(self.weight)

    def chunks(self, hidden: Tensor) -> Iterator[slice]:
        """Slices of ``[N, H]`` whose logits fit into ``work_bytes``."""
        size = COMPILED_HEAD_ELEMENT if self.compiled else HEAD_ELEMENT
        tokens = rounded(self.work_bytes // (size * self.vocabulary(hidden)))
        return slices(len(hidden), tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """What to score at each of N tokens."""

    ids: Tensor
    """``[N]`` int64: the token itself."""
    temperature: Tensor | None = None
    """``[N, 1]``: its logits are divided by it; None: 1 everywhere."""
    top_ids: Tensor | None = None
    """``[N, K]`` int64: further tokens."""
    top_temperature: float | None = None
    """Temperature of ``top_ids`` and of the unshared tokens; None: that of the token itself."""
    unshared: Tensor | None = None
    """``[V]`` bool: policy tokens missing from the teacher's vocabulary; None: none is."""
    entropy: bool = False
    entropy_gradient: bool = False
    """The entropy can be differentiated."""
    log_partition: bool = False

    @property
    def at(self) -> Tensor | float | None:
        """Temperature of the top ids; None: 1."""
        return self.temperature if self.top_temperature is None else self.top_temperature

    def to(self, device: torch.device) -> "Query":
        """The same query on another device."""
        # non_blocking: spares the wait for the copies before it
        given: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **given)


def squeezed(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Final logits of raw ones, in float32 (float64 if these are)."""
    logits = exact(raw)
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def exact(values: Tensor) -> Tensor:
    """In float32 at least: bfloat16 has 3 digits, and ratios of probabilities computed in it would be noise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def rows_of(record: Record, rows: slice) -> Record:
    """A dataclass of ``[N, ...]`` tensors, cut to some tokens; ``unshared``, which is ``[V]``, stays whole."""
    given: dict[str, Any] = {f.name: getattr(record, f.name) for f in fields(record)}  # type: ignore[arg-type]
    cut = {k: t[rows] for k, t in given.items() if isinstance(t, Tensor) and k != "unshared"}
    return replace(record, **cut)  # type: ignore[type-var]


def rounded(size: int) -> int:
    """Down to a multiple of ``ROUND_TO`` where there is one; at least 1."""
    return max(1, size if size < ROUND_TO else size // ROUND_TO * ROUND_TO)


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as kernels of its own; made at its first call, for importing the compiler takes a second."""
    return torch.compile(function)


def slices(length: int, size: int) -> Iterator[slice]:
    """``length`` in runs of ``size``."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
