"""Records of tensors as two plain tensors, for transfer between ranks. Nothing is pickled.

A record is a dataclass whose fields are tensors, floats or None (``TokenBatch``, ``Denominator``, ``PolicyOutputs``).
Its fields travel by position: all ranks run the same code. Example::

    schema, content = pack(values_of([batch]))                        # one rank
    take_record(TokenBatch, iter(unpack(schema, content)))            # the other: the same batch
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlserve.errors import StateCorrupt

R = TypeVar("R")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
MAX_DIMENSIONS = 4
"""One more than any field has."""
ABSENT, NUMBER = -1, -2
"""Stand where the dtype's index would, for None and for a float."""
ROW = 2 + MAX_DIMENSIONS


def pack(values: Sequence[Tensor | float | None]) -> tuple[Tensor, Tensor]:
    """(``[n, ROW]`` int64 with mark, dimensions and shape of each value; ``[bytes]`` uint8 with their content)."""
    schema = torch.zeros(len(values), ROW, dtype=torch.int64)
    parts = [torch.zeros(0, dtype=torch.uint8)]  # torch.cat refuses an empty list
    for row, value in zip(schema, values, strict=True):
        if value is None:
            row[0] = ABSENT
            continue
        is_tensor = isinstance(value, Tensor)
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        row[0] = DTYPES.index(tensor.dtype) if is_tensor else NUMBER  # a float comes back as a float, not as a tensor
        row[1] = tensor.ndim
        row[2 : 2 + tensor.ndim] = torch.tensor(tensor.shape, dtype=torch.int64)
        # reshape(-1): torch refuses to view a 0-dimensional tensor as bytes.
        parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8))
    return schema, torch.cat(parts)


def unpack(schema: Tensor, content: Tensor) -> list[Tensor | float | None]:
    """Undo ``pack``. Raises StateCorrupt when the two do not fit."""
    values: list[Tensor | float | None] = []
    for mark, dimensions, *sizes in schema.tolist():
        if mark == ABSENT:
            values.append(None)
            continue
        dtype = torch.float64 if mark == NUMBER else DTYPES[mark]
        shape = torch.Size(sizes[:dimensions])
        length = shape.numel() * dtype.itemsize
        if length > len(content):
            raise StateCorrupt(f"learner ranks: a tensor of {length} bytes was announced, {len(content)} are left")
        taken, content = content[:length], content[length:]
        # clone: a slice need not be aligned for its type
        tensor = taken.clone().view(dtype).view(shape)
        values.append(float(tensor) if mark == NUMBER else tensor)
    if len(content):
        raise StateCorrupt(f"learner ranks: {len(content)} bytes more than announced")
    return values


def values_of(records: Sequence[Any]) -> list[Tensor | float | None]:
    """All fields of all records, in order."""
    return [getattr(record, f.name) for record in records for f in fields(record)]


def take_record(kind: type[R], values: Iterator[Tensor | float | None]) -> R:
    """Build the next record of ``kind`` from the values that ``values_of`` listed."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    given: Mapping[str, Any] = {name: next(values) for name in names}
    return kind(**given)
