"""A checksum of a tensor's bytes that processors and accelerators compute alike, at the speed of their memory.

The bytes are read as little-endian words of 64 bits (the last one filled up with zeros), ``LANES`` words a row. With
fixed odd numbers ``A`` by lane and ``B`` by row the checksum is::

    sum over rows r of B[r] * (sum over lanes j of A[j] * word[r, j])      modulo 2**64

Odd factors have an inverse, so that a change in one word, whatever it is, always changes the sum; changes in several
words cancel out in one of 2**64 cases. It finds damage and mix-ups and is no defence against somebody who wants to
forge weights: bytes that leave the host travel in chunks with a cryptographic digest each.

``checksums`` computes where the tensors are: nothing but the results leaves the device.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

# torch is imported where it is needed: who checks bytes alone does without.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

LANES = 4096
"""Words of a row, 32 KiB: long enough that rows cost nothing, and it fits into the fastest cache with its factors."""
WORD_BYTES = 8
ROW_BYTES = LANES * WORD_BYTES
BLOCK_ROWS = 2048
"""Rows that an accelerator multiplies at once. The products take 64 MiB, small beside any model it serves."""
MASK = 2**64 - 1
Words = npt.NDArray[np.uint64]


def checksum(content: npt.NDArray[np.uint8]) -> str:
    """Of bytes in host memory, as 16 hexadecimal digits."""
    rows = content.size // ROW_BYTES
    whole = content[: rows * ROW_BYTES].view("<u8").reshape(rows, LANES)
    rest = np.zeros(ROW_BYTES, dtype=np.uint8)
    rest[: content.size - rows * ROW_BYTES] = content[rows * ROW_BYTES :]
    lanes = _lane_factors()
    # uint64 products and sums wrap around, which is the modulo.
    total = (whole @ lanes) @ _row_factors(0, rows) + np.sum(rest.view("<u8") * lanes) * _row_factors(rows, 1)
    return f"{int(total[0]):016x}"


def checksums(tensors: "Sequence[Tensor]") -> list[str]:
    """Of each tensor's elements in order, computed on its device; waits for the results once."""
    import torch

    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [checksum(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()) for tensor in tensors]
    return [f"{value & MASK:016x}" for value in all_on_device(tensors).tolist()]


def all_on_device(tensors: "Sequence[Tensor]") -> "Tensor":
    """``on_device`` of each, ``[tensors]``. Those of at most a row go together: hundreds of norms in a few launches."""
    import torch

    found: dict[int, Tensor] = {}
    small = [i for i, tensor in enumerate(tensors) if tensor.numel() * tensor.element_size() <= ROW_BYTES]
    for start in range(0, len(small), BLOCK_ROWS):
        batch = small[start : start + BLOCK_ROWS]
        # [batch, ROW_BYTES]: each tensor in a row of its own, filled up with zeros.
        rows = torch.zeros((len(batch), ROW_BYTES), dtype=torch.uint8, device=tensors[0].device)
        given = [tensors[i].detach().reshape(-1) for i in batch]
        places = [row[: t.numel() * t.element_size()].view(t.dtype) for row, t in zip(rows, given, strict=True)]
        torch._foreach_copy_(places, given)
        sums = (rows.view(torch.int64) * _lanes_on(rows.device)).sum(1) * _rows_on(rows.device, 1)[0]
        found |= dict(zip(batch, sums.unbind(), strict=True))
    return torch.stack([found[i] if i in found else on_device(tensor) for i, tensor in enumerate(tensors)])


def on_device(tensor: "Tensor") -> "Tensor":
    """The checksum as a signed number, ``[]`` int64 on the tensor's device; does not wait for it."""
    import torch

    flat = tensor.detach().contiguous().view(-1)
    size = flat.numel() * flat.element_size()
    if flat.storage_offset() * flat.element_size() % WORD_BYTES:
        flat = flat.clone()  # words must not lie across those of the memory
    rows = size // ROW_BYTES
    body = flat[: rows * ROW_BYTES // flat.element_size()].view(torch.int64).view(rows, LANES)
    lanes = _lanes_on(tensor.device)
    factors = _rows_on(tensor.device, rows + 1)
    # [rows + 1]: the sum of each row.
    parts = [(body[start : start + BLOCK_ROWS] * lanes).sum(1) for start in range(0, rows, BLOCK_ROWS)]
    if size % ROW_BYTES:
        rest = flat.new_zeros(ROW_BYTES // flat.element_size())
        rest[: (size % ROW_BYTES) // flat.element_size()] = flat[rows * ROW_BYTES // flat.element_size() :]
        parts.append((rest.view(torch.int64) * lanes).sum().view(1))
    if not parts:
        return torch.zeros((), dtype=torch.int64, device=tensor.device)
    sums = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (sums * factors[: len(sums)]).sum()


def of_part(part: "Tensor", *, start: int, stride: int) -> "Tensor":
    """What a part contributes to the checksum of its tensor: the contributions of all parts add up to it.

    ``part`` is contiguous, ``[rows, ...]``; its first row begins ``start`` bytes into the tensor and each following one
    ``stride`` bytes later. Returns ``[]`` int64 on its device. Raises ValueError where rows do not consist of words.
    """
    import torch

    rows = part.shape[0]
    size = part.numel() * part.element_size()
    flat = part.detach().contiguous().view(-1)
    if rows and stride * rows == size:  # one run: only its end may lie within a word
        rows, stride = 1, size + -size % WORD_BYTES
        flat = torch.cat([flat, flat.new_zeros(-size % WORD_BYTES // flat.element_size())])
    if start % WORD_BYTES or stride % WORD_BYTES or (flat.numel() * flat.element_size()) % (WORD_BYTES * max(rows, 1)):
        raise ValueError(f"rows of {size // max(rows, 1)} bytes from byte {start} do not consist of whole words")
    # A copy where words would lie across those of the memory.
    flat = flat.clone() if flat.storage_offset() * flat.element_size() % WORD_BYTES else flat
    words = flat.view(torch.int64).view(rows, -1)
    lanes, table = _lanes_on(part.device), _rows_on(part.device, (start + stride * max(rows, 1)) // ROW_BYTES + 1)
    total = torch.zeros((), dtype=torch.int64, device=part.device)
    # Blocks of rows, and of words of one long row.
    step, width = max(1, BLOCK_ROWS * LANES // max(words.shape[1], 1)), BLOCK_ROWS * LANES
    for row in range(0, rows, step):
        for column in range(0, words.shape[1], width):
            block = words[row : row + step, column : column + width]
            first = torch.arange(row, row + len(block), device=part.device) * (stride // WORD_BYTES)
            place = first[:, None] + torch.arange(column, column + block.shape[1], device=part.device)
            place += start // WORD_BYTES
            total += (block * lanes[place % LANES] * table[place // LANES]).sum()
    return total


def _odd(numbers: Words) -> Words:
    """Well-mixed odd numbers (SplitMix64)."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)


@cache
def _lane_factors() -> Words:
    return _odd(np.arange(LANES, dtype=np.uint64))


def _row_factors(first: int, rows: int) -> Words:
    return _odd(np.arange(LANES + first, LANES + first + rows, dtype=np.uint64))


@cache
def _lanes_on(device: "torch.device") -> "Tensor":
    return _on(device, _lane_factors())


def _rows_on(device: "torch.device", rows: int) -> "Tensor":
    """At least ``rows`` factors; of few sizes, so that few tables are kept."""
    return _row_table(device, 1 << max(rows, LANES).bit_length())


@cache
def _row_table(device: "torch.device", rows: int) -> "Tensor":
    return _on(device, _row_factors(0, rows))


def _on(device: "torch.device", factors: Words) -> "Tensor":
    import torch

    return torch.from_numpy(factors.view(np.int64)).to(device)
