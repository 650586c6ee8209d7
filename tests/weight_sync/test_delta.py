"""Deltas: lossless for any bits, refused when malformed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.errors import WeightsMismatch
from rlserve.records import TensorSpec
from rlserve.weight_sync import delta
from rlserve.weight_sync.manifest import Bytes, chunk_digest

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


def spec(name: str, count: int, dtype: str) -> TensorSpec:
    return TensorSpec(name=name, shape=(count,), dtype=dtype, digest="00", num_bytes=count * WIDTH[dtype])


def random_bytes(seed: int, size: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def encoded(old: Bytes, new: Bytes, specs: list[TensorSpec], *, max_share: float = float("inf")) -> bytes:
    return b"".join(delta.encode(old, new, specs, max_share=max_share))


def applied(old: Bytes, content: bytes, specs: list[TensorSpec]) -> Bytes:
    flat = old.copy()
    decoder = delta.Decoder(flat, specs)
    decoder.feed(content)
    decoder.finish()
    return flat


tensors = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(sorted(WIDTH))), min_size=1, max_size=4).map(
    lambda shapes: [spec(f"t{i}", count, dtype) for i, (count, dtype) in enumerate(shapes)]
)


@given(tensors, st.integers(0, 2**32), st.floats(0, 1))
def test_any_change_of_bits_is_carried_exactly(specs: list[TensorSpec], seed: int, share: float) -> None:
    size = sum(s.num_bytes for s in specs)
    old = random_bytes(seed, size)
    touched = np.random.default_rng(seed + 1).random(size) < share
    new = np.where(touched, random_bytes(seed + 2, size), old)
    assert np.array_equal(applied(old, encoded(old, new, specs), specs), new)


def test_nan_payloads_and_negative_zero_survive() -> None:
    specs = [spec("w", 4, "float32")]
    old = np.array([0.0, 1.0, np.nan, 2.0], dtype="<f4").view(np.uint8)
    new = np.array([0x80000000, 0x3F800000, 0x7FC00001, 0xFF800000], dtype="<u4").view(np.uint8)
    assert np.array_equal(applied(old, encoded(old, new, specs), specs), new)


def test_a_change_of_everything_is_sent_whole_instead() -> None:
    specs = [spec("w", 5000, "float32")]
    old, new = random_bytes(0, 20000), random_bytes(1, 20000)
    assert not delta.is_worthwhile(old, new, specs) and delta.is_worthwhile(old, old, specs)
    with pytest.raises(delta.TooLarge):
        list(delta.encode(old, new, specs))


def test_a_sparse_change_is_small() -> None:
    specs = [spec("w", 100_000, "bfloat16")]
    old = random_bytes(0, 200_000)
    new = old.copy()
    new[::2000] ^= 1
    assert delta.is_worthwhile(old, new, specs)
    assert len(encoded(old, new, specs, max_share=delta.MAX_SHARE)) < 2000


def test_pieces_are_made_of_tensors_in_a_row_and_applied_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "PIECE_BYTES", 1000)
    specs = [spec(f"t{i}", count, "bfloat16") for i, count in enumerate((100, 300, 2000, 1, 0, 499))]
    size = sum(s.num_bytes for s in specs)
    old = random_bytes(0, size)
    new = old.copy()
    new[::50] ^= 1
    pieces = list(delta.encode(old, new, specs, max_share=10.0))
    assert len(pieces) == 3
    flat = old.copy()
    decoder = delta.Decoder(flat, specs)
    for byte in pieces[0]:
        decoder.feed(bytes([byte]))
    assert np.array_equal(flat[:800], new[:800]) and np.array_equal(flat[800:], old[800:])
    with pytest.raises(WeightsMismatch, match="2 of 6 tensors came"):
        decoder.finish()
    decoder.feed(pieces[1] + pieces[2])
    decoder.finish()
    assert np.array_equal(flat, new)
    with pytest.raises(WeightsMismatch, match="unknown format"):
        delta.Decoder(old.copy(), specs).feed(pieces[1])


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_is_refused_or_gives_bytes_that_the_digest_refuses(junk: bytes, at: int) -> None:
    specs = [spec("a", 50, "float32"), spec("b", 30, "bfloat16")]
    old = random_bytes(3, 260)
    new = old.copy()
    new[::7] ^= 255
    whole = encoded(old, new, specs)
    damaged = whole[: at % len(whole)] + junk
    if damaged == whole:
        return
    try:
        result = applied(old, damaged, specs)
    except WeightsMismatch:
        return
    assert result.size == old.size
    assert damaged[:28] == whole[:28] or chunk_digest(result) != chunk_digest(new)


def test_a_claimed_size_beyond_the_tensors_is_refused_before_it_is_allocated() -> None:
    specs = [spec("a", 10, "float32")]
    for raw, body in ((2**50, 10), (40, 2**50)):
        with pytest.raises(WeightsMismatch, match="format"):
            delta.Decoder(random_bytes(0, 40), specs).feed(delta.HEADER.pack(delta.MAGIC, 0, 1, raw, body) + b"x")
