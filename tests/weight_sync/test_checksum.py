"""The checksum against a plain sum of Python integers, and on both of its paths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.weight_sync.checksum import LANES, MASK, ROW_BYTES, all_on_device, checksum, checksums, of_part, on_device


def odd(number: int) -> int:
    """SplitMix64, made odd, in Python's own integers."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
    return (mixed ^ mixed >> 31) | 1


def by_definition(content: bytes) -> str:
    padded = content + bytes(-len(content) % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    total = sum(odd(LANES + i // LANES) * odd(i % LANES) * word for i, word in enumerate(words))
    return f"{total & MASK:016x}"


@pytest.mark.parametrize("size", [2, 6, 8, ROW_BYTES - 2, ROW_BYTES, ROW_BYTES + 2, 3 * ROW_BYTES + 10])
def test_both_paths_compute_the_sum_of_the_definition_oracle(size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    tensor = torch.from_numpy(content).view(torch.float16)
    expected = by_definition(content.tobytes())
    assert checksum(content) == expected
    assert f"{int(on_device(tensor)) & MASK:016x}" == expected
    assert checksums([tensor]) == [expected]


def test_a_slice_that_begins_within_a_word_has_the_checksum_of_its_bytes() -> None:
    whole = torch.randn(3 * LANES + 5).to(torch.bfloat16)
    for part in (whole[1:], whole[3:7], whole.view(-1, 1)[::2]):
        content = part.contiguous().reshape(-1).view(torch.uint8).numpy()
        assert checksum(content) == by_definition(content.tobytes()) == f"{int(on_device(part)) & MASK:016x}"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 5 * LANES - 1), st.integers(0, 5 * LANES - 1), st.integers(0, 63))
def test_a_flipped_bit_and_two_words_in_each_others_place_are_found(seed: int, i: int, j: int, bit: int) -> None:
    words = np.random.default_rng(seed).integers(0, 2**63, 5 * LANES, dtype=np.uint64)
    right = checksum(words.view(np.uint8))
    flipped = words.copy()
    flipped[i] ^= np.uint64(1) << np.uint64(bit)
    assert checksum(flipped.view(np.uint8)) != right
    swapped = words.copy()
    swapped[[i, j]] = words[[j, i]]
    assert i == j or checksum(swapped.view(np.uint8)) != right


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_parts_add_up_to_the_checksum_of_the_whole(rows: int, columns: int, ranks: int, seed: int) -> None:
    """Columns are multiples of four bfloat16 words here, and so are the parts, as in any model."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(rows * ranks, columns * ranks * 1024, generator=generator).to(torch.bfloat16)
    row_bytes = whole.shape[1] * 2
    expected = checksums([whole])[0]
    by_rows = [
        int(of_part(part.contiguous(), start=i * rows * row_bytes, stride=row_bytes))
        for i, part in enumerate(whole.chunk(ranks))
    ]
    by_columns = [
        int(of_part(part.contiguous(), start=i * columns * 2048, stride=row_bytes))
        for i, part in enumerate(whole.chunk(ranks, dim=1))
    ]
    assert f"{sum(by_rows) & MASK:016x}" == f"{sum(by_columns) & MASK:016x}" == expected


def test_a_part_ends_within_a_word_at_the_end_of_its_tensor_alone() -> None:
    whole = torch.arange(13.0).to(torch.bfloat16)
    parts = int(of_part(whole[:8], start=0, stride=2)) + int(of_part(whole[8:], start=16, stride=2))
    assert f"{parts & MASK:016x}" == checksums([whole])[0]
    with pytest.raises(ValueError, match="whole words"):
        of_part(whole[3:], start=6, stride=2)
    with pytest.raises(ValueError, match="whole words"):
        of_part(torch.zeros(3, 3, dtype=torch.bfloat16), start=0, stride=16)


def test_all_tensors_of_a_model_at_once_have_the_checksums_of_each() -> None:
    shapes = [(3,), (1,), (LANES,), (4 * LANES,), (4 * LANES + 1,), (5, 3000), (0,), (70, LANES), (2, 3, 4)]
    tensors = [torch.randn(shape).to(torch.bfloat16) for shape in shapes] + [torch.randn(7), torch.randn(9, 4)[:, ::2]]
    assert [f"{value & MASK:016x}" for value in all_on_device(tensors).tolist()] == checksums(tensors)
