"""A lossless difference between two versions: which elements changed, and their new bits.

Layout (little-endian): magic ``RLD1``, the uncompressed size (u64), then one zstd frame that holds, for each
tensor in manifest order: number of changed elements (u64), gaps between changed positions (u32 each, the first
from -1), new values (element size each, byte planes apart so that they compress).

Bits are compared, not numbers: NaN payloads and -0.0 survive. At RL learning rates most bf16 elements keep
their bits from step to step; where they do not, ``encode`` returns None and the full copy is sent.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import zstandard

from rlserve.errors import WeightsMismatch
from rlserve.records import TensorSpec
from rlserve.weight_sync.manifest import Bytes, slices

MAGIC = b"RLD1"
HEADER = struct.Struct("<4sQ")
COUNT = struct.Struct("<Q")
LEVEL = 1
"""Of zstd. The gaps and exponent bytes compress at any level; higher ones cost more time than the link saves."""
SAMPLE_STRIDE = 64
"""Every 64th element estimates the share of changed ones: a 64th of the reading, and still thousands of samples."""
COST_OF_A_CHANGE = 3.0
"""Raw bytes of a changed bfloat16 element (gap and value) over its own size."""
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
Words = npt.NDArray[np.unsignedinteger]


def encode(old: Bytes, new: Bytes, tensors: Sequence[TensorSpec], *, max_share: float = 0.8) -> bytes | None:
    """The difference as bytes, or None when it is larger than ``max_share`` of a full copy.

    0.8: decoding and checking a delta costs the worker about as much time as a fifth of the bytes.
    """
    # The bound of the loop below, estimated from a sample: a delta that cannot pay is not begun.
    if _changed_share(old, new, tensors) * COST_OF_A_CHANGE > max(2.0, max_share):
        return None
    limit = int(max_share * new.size)
    parts: list[bytes] = []
    size = 0
    for spec, place in slices(tensors):
        part = _encode_tensor(old[place], new[place], ELEMENT_BYTES[spec.dtype])
        size += len(part)
        # zstd about halves it at best: more than two full copies of raw bytes never get below one.
        if size > max(2.0, max_share) * new.size:
            return None
        parts.append(part)
    raw = b"".join(parts)
    encoded = HEADER.pack(MAGIC, len(raw)) + zstandard.ZstdCompressor(level=LEVEL).compress(raw)
    return encoded if len(encoded) <= limit else None


def apply(old: Bytes, delta: bytes, tensors: Sequence[TensorSpec]) -> Bytes:
    """The new version's bytes. Raises WeightsMismatch when ``delta`` is not a difference to ``old``.

    The caller checks the digests afterwards: a well-formed delta against another base gives wrong bytes.
    """
    raw = _decompress(delta, tensors)
    # A copy: ``old`` stays as it is for another attempt, and may be a read-only mapping.
    new = old.copy()
    offset = 0
    for spec, place in slices(tensors):
        offset = _apply_tensor(new[place], raw, offset, spec)
    if offset != len(raw):
        raise WeightsMismatch(f"delta: {len(raw) - offset} bytes too many; a full copy is needed")
    return new


def _changed_share(old: Bytes, new: Bytes, tensors: Sequence[TensorSpec]) -> float:
    """Share of changed elements, estimated from a sample, so that a useless delta is never encoded."""
    sampled, changed = 0, 0
    for spec, place in slices(tensors):
        words = np.dtype(f"<u{ELEMENT_BYTES[spec.dtype]}")
        before, after = old[place].view(words)[::SAMPLE_STRIDE], new[place].view(words)[::SAMPLE_STRIDE]
        sampled += before.size
        changed += int(np.count_nonzero(before != after))
    return changed / max(sampled, 1)


def _encode_tensor(old: Bytes, new: Bytes, width: int) -> bytes:
    words = np.dtype(f"<u{width}")
    changed = np.flatnonzero(old.view(words) != new.view(words))
    # From -1, so that every gap is at least 1, and a 0 shows damage.
    gaps = np.diff(changed, prepend=-1).astype("<u4")
    # [width, changed]: all first bytes, then all second ones. Those with the exponent repeat.
    values = new.view(words)[changed].view(np.uint8).reshape(-1, width).T
    return COUNT.pack(changed.size) + gaps.tobytes() + np.ascontiguousarray(values).tobytes()


def _apply_tensor(new: Bytes, raw: memoryview, offset: int, spec: TensorSpec) -> int:
    width = ELEMENT_BYTES[spec.dtype]
    if len(raw) - offset < COUNT.size:
        raise WeightsMismatch(f"delta: ends before {spec.name!r}; a full copy is needed")
    count = int(COUNT.unpack_from(raw, offset)[0])
    offset += COUNT.size
    end = offset + count * (4 + width)
    # Before the views below are made: the count came over the wire.
    if count > spec.num_bytes // width or end > len(raw):
        raise WeightsMismatch(f"delta: {count} changes in {spec.name!r} do not fit; a full copy is needed")
    gaps = np.frombuffer(raw, dtype="<u4", count=count, offset=offset)
    planes = np.frombuffer(raw, dtype=np.uint8, count=count * width, offset=offset + 4 * count)
    # int64: u32 sums of damaged gaps would wrap around into the tensor.
    positions = np.cumsum(gaps, dtype=np.int64) - 1
    if count and (positions[-1] >= spec.num_bytes // width or gaps.min() == 0):
        raise WeightsMismatch(f"delta: a position lies outside {spec.name!r}; a full copy is needed")
    values = np.ascontiguousarray(planes.reshape(width, count).T).view(f"<u{width}").reshape(-1)
    new.view(f"<u{width}")[positions] = values
    return end


def _decompress(delta: bytes, tensors: Sequence[TensorSpec]) -> memoryview:
    """The raw content. The size in the header is bounded before anything is allocated: it came over the wire."""
    # 8 bytes per element: a gap and the widest value.
    bound = sum(COUNT.size + spec.num_bytes // ELEMENT_BYTES[spec.dtype] * 8 for spec in tensors)
    try:
        magic, size = HEADER.unpack_from(delta)
        if magic != MAGIC or size > bound:
            raise WeightsMismatch("delta: unknown format; a full copy is needed")
        body = memoryview(delta)[HEADER.size :]
        # -1: the frame does not name its size.
        if zstandard.frame_content_size(body) not in (size, -1):
            raise WeightsMismatch("delta: the size of its frame differs from its header; a full copy is needed")
        raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
    except (struct.error, zstandard.ZstdError) as error:
        raise WeightsMismatch(f"delta: cannot be read ({error}); a full copy is needed") from error
    if len(raw) != size:
        raise WeightsMismatch("delta: the size of its frame differs from its header; a full copy is needed")
    return memoryview(raw)
