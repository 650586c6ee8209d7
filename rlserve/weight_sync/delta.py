"""A lossless difference between two versions: which elements changed, and their new bits.

It is made and sent piece by piece. A piece is about some tensors in a row. Layout (little-endian): magic ``RLD2``, the
first tensor (u32), how many (u32), the sizes of its content before and after compression (u64 each), then one zstd
frame that holds, for each of them: number of changed elements (u64), gaps between changed positions (u32 each, the
first from -1), new values (element size each, byte planes apart so that they compress).

Bits are compared, not numbers: NaN payloads and -0.0 survive. At RL learning rates most bf16 elements keep
their bits from step to step; where they do not, ``is_worthwhile`` says so and the full copy is sent.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import zstandard

from rlserve.errors import WeightsMismatch
from rlserve.records import TensorSpec
from rlserve.weight_sync.manifest import Bytes, slices

MAGIC = b"RLD2"
HEADER = struct.Struct("<4sIIQQ")
COUNT = struct.Struct("<Q")
LEVEL = 1
"""Of zstd. The gaps and exponent bytes compress at any level; higher ones cost more time than the link saves."""
PIECE_BYTES = 2**26
"""Of tensors in one piece: encoded in a fraction of a second, and still large enough to compress."""
SAMPLE_WORDS = 2**11
"""Elements of a sampled block: at least a page of memory, since single elements would cost as much as all."""
SAMPLE_STRIDE = 64
"""Every 64th block estimates the share of changed elements: a 64th of the reading, and still thousands of samples."""
COST_OF_A_CHANGE = 3.0
"""Raw bytes of a changed bfloat16 element (gap and value) over its own size."""
MAX_SHARE = 0.8
"""Of a full copy. Decoding and checking a delta costs the worker about as much time as a fifth of the bytes."""
FRAME_BYTES = 2**10
"""More than the frame of a compressed piece adds to it."""
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
Words = npt.NDArray[np.unsignedinteger]


class TooLarge(Exception):
    """A full copy is smaller after all."""


def is_worthwhile(old: Bytes, new: Bytes, tensors: Sequence[TensorSpec], *, max_share: float = MAX_SHARE) -> bool:
    """Whether a difference may be smaller than ``max_share`` of a full copy, estimated from a sample."""
    # Compression about halves it at best: more than two full copies of raw bytes never get below one.
    return _changed_share(old, new, tensors) * COST_OF_A_CHANGE <= max(2.0, max_share)


def encode(old: Bytes, new: Bytes, tensors: Sequence[TensorSpec], *, max_share: float = MAX_SHARE) -> Iterator[bytes]:
    """The pieces of the difference. Raises TooLarge as soon as they exceed ``max_share`` of a full copy."""
    size = 0
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    for first, run in _runs(tensors):
        parts = [_encode_tensor(old[place], new[place], ELEMENT_BYTES[spec.dtype]) for spec, place in run]
        raw = b"".join(parts)
        body = compressor.compress(raw)
        size += HEADER.size + len(body)
        if size > max_share * new.size:
            raise TooLarge
        yield HEADER.pack(MAGIC, first, len(run), len(raw), len(body)) + body


class Decoder:
    """Applies a difference, or several from version to version, as the bytes come.

    For example::

        decoder = Decoder(flat, tensors)    # flat holds the old version, and the new one in the end
        for data in stream:
            decoder.feed(data)              # raises WeightsMismatch when this is no difference to it
        decoder.finish()

    The caller checks the digests afterwards: a well-formed difference to another base gives wrong bytes.
    """

    def __init__(self, flat: Bytes, tensors: Sequence[TensorSpec]) -> None:
        self._flat = flat
        self._places = list(slices(tensors))
        self._buffer = bytearray()
        self._done = 0

    def feed(self, data: bytes) -> None:
        """Apply the pieces that are whole by now."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            if self._done == len(self._places):
                self._done = 0  # the difference to the next version of a chain
            magic, first, count, raw_size, size = HEADER.unpack_from(self._buffer)
            run = self._places[first : first + count]
            # 8 bytes per element: a gap and the widest value. Bounded before anything is allocated or awaited.
            bound = sum(COUNT.size + spec.num_bytes // ELEMENT_BYTES[spec.dtype] * 8 for spec, _ in run)
            if magic != MAGIC or first != self._done or len(run) != count or not count or raw_size > bound:
                raise WeightsMismatch("delta: unknown format; a full copy is needed")
            # What does not compress gets longer by a 256th at most.
            if size > raw_size + raw_size // 256 + FRAME_BYTES:
                raise WeightsMismatch("delta: unknown format; a full copy is needed")
            if len(self._buffer) < HEADER.size + size:
                return
            body = bytes(memoryview(self._buffer)[HEADER.size : HEADER.size + size])
            del self._buffer[: HEADER.size + size]
            self._apply(run, _decompressed(body, raw_size))
            self._done += count

    def finish(self) -> None:
        """Raises WeightsMismatch unless all tensors came, and nothing after them."""
        if self._buffer or self._done != len(self._places):
            raise WeightsMismatch(
                f"delta: {self._done} of {len(self._places)} tensors came, and {len(self._buffer)} bytes after them; a "
                "full copy is needed"
            )

    def _apply(self, run: Sequence[tuple[TensorSpec, slice]], raw: memoryview) -> None:
        offset = 0
        for spec, place in run:
            offset = _apply_tensor(self._flat[place], raw, offset, spec)
        if offset != len(raw):
            raise WeightsMismatch(f"delta: {len(raw) - offset} bytes too many; a full copy is needed")


def _runs(tensors: Sequence[TensorSpec]) -> Iterator[tuple[int, list[tuple[TensorSpec, slice]]]]:
    """Tensors in a row of about PIECE_BYTES together, with the number of the first."""
    first, run, held = 0, list[tuple[TensorSpec, slice]](), 0
    for number, (spec, place) in enumerate(slices(tensors)):
        if run and held + spec.num_bytes > PIECE_BYTES:
            yield first, run
            first, run, held = number, [], 0
        run.append((spec, place))
        held += spec.num_bytes
    if run:
        yield first, run


def _changed_share(old: Bytes, new: Bytes, tensors: Sequence[TensorSpec]) -> float:
    """Share of changed elements, estimated from a sample, so that a useless delta is never encoded."""
    sampled, changed = 0, 0
    for spec, place in slices(tensors):
        words = np.dtype(f"<u{ELEMENT_BYTES[spec.dtype]}")
        before, after = old[place].view(words), new[place].view(words)
        for start in range(0, before.size, SAMPLE_WORDS * SAMPLE_STRIDE):
            block = slice(start, start + SAMPLE_WORDS)
            changed += int(np.count_nonzero(before[block] != after[block]))
            sampled += before[block].size
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


def _decompressed(body: bytes, size: int) -> memoryview:
    try:
        # -1: the frame does not name its size.
        if zstandard.frame_content_size(body) not in (size, -1):
            raise WeightsMismatch("delta: the size of its frame differs from its header; a full copy is needed")
        raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
    except zstandard.ZstdError as error:
        raise WeightsMismatch(f"delta: cannot be read ({error}); a full copy is needed") from error
    if len(raw) != size:
        raise WeightsMismatch("delta: the size of its frame differs from its header; a full copy is needed")
    return memoryview(raw)
