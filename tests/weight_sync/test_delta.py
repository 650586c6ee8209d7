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


tensors = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(sorted(WIDTH))), min_size=1, max_size=4).map(
    lambda shapes: [spec(f"t{i}", count, dtype) for i, (count, dtype) in enumerate(shapes)]
)


@given(tensors, st.integers(0, 2**32), st.floats(0, 1))
def test_any_change_of_bits_is_carried_exactly(specs: list[TensorSpec], seed: int, share: float) -> None:
    size = sum(s.num_bytes for s in specs)
    old = random_bytes(seed, size)
    touched = np.random.default_rng(seed + 1).random(size) < share
    new = np.where(touched, random_bytes(seed + 2, size), old)
    encoded = delta.encode(old, new, specs, max_share=100.0)
    if encoded is None:
        # The header of a tiny version outweighs a hundredfold of it.
        assert size <= 1
        return
    assert np.array_equal(delta.apply(old, encoded, specs), new)


def test_nan_payloads_and_negative_zero_survive() -> None:
    specs = [spec("w", 4, "float32")]
    old = np.array([0.0, 1.0, np.nan, 2.0], dtype="<f4").view(np.uint8)
    new = np.array([0x80000000, 0x3F800000, 0x7FC00001, 0xFF800000], dtype="<u4").view(np.uint8)
    encoded = delta.encode(old, new, specs, max_share=100.0)
    assert encoded is not None
    assert np.array_equal(delta.apply(old, encoded, specs), new)


def test_a_change_of_everything_is_sent_whole_instead() -> None:
    specs = [spec("w", 5000, "float32")]
    assert delta.encode(random_bytes(0, 20000), random_bytes(1, 20000), specs) is None


def test_a_sparse_change_is_small() -> None:
    specs = [spec("w", 100_000, "bfloat16")]
    old = random_bytes(0, 200_000)
    new = old.copy()
    new[::2000] ^= 1
    encoded = delta.encode(old, new, specs)
    assert encoded is not None and len(encoded) < 2000


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_is_refused_or_gives_bytes_that_the_digest_refuses(junk: bytes, at: int) -> None:
    specs = [spec("a", 50, "float32"), spec("b", 30, "bfloat16")]
    old = random_bytes(3, 260)
    new = old.copy()
    new[::7] ^= 255
    whole = delta.encode(old, new, specs, max_share=100.0)
    assert whole is not None
    damaged = whole[: at % len(whole)] + junk
    if damaged == whole:
        return
    try:
        result = delta.apply(old, damaged, specs)
    except WeightsMismatch:
        return
    assert result.size == old.size
    assert damaged[:12] == whole[:12] or chunk_digest(result) != chunk_digest(new)


def test_a_claimed_size_beyond_the_tensors_is_refused_before_it_is_allocated() -> None:
    specs = [spec("a", 10, "float32")]
    bomb = delta.HEADER.pack(delta.MAGIC, 2**50) + b"x"
    with pytest.raises(WeightsMismatch, match="format"):
        delta.apply(random_bytes(0, 40), bomb, specs)
