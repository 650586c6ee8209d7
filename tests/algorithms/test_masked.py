import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms.masked import (
    AVERAGINGS,
    add_denominators,
    denominator,
    masked_sum,
    sequence_sum,
    spread,
    token_weights,
)
from rlserve.errors import InvalidRequest
from tests.support.models.token_batches import packed, padded, random_samples, whole


def test_what_lies_under_the_mask_is_never_looked_at():
    values = torch.tensor([1.0, float("nan"), float("inf")])
    mask = torch.tensor([1.0, 0.0, 0.0])
    assert masked_sum(values, mask) == 1
    assert masked_sum(values, torch.zeros(3)) == 0


def test_sequence_sums_oracle_a_loop():
    batch = packed(random_samples([3, 1, 5], 0))
    values = torch.rand(batch.token_ids.shape)
    sums = sequence_sum(values, batch.sequence_ids, 3)
    assert sums.tolist() == pytest.approx([float(values[batch.sequence_ids == i].sum()) for i in range(3)])
    assert (spread(sums, batch.sequence_ids)[batch.sequence_ids == 1] == sums[1]).all()


@pytest.mark.parametrize(
    ("averaging", "expected"),
    [
        ("token_mean", 0.5),
        ("sequence_mean_token_mean", 0.0),
        ("sequence_mean_token_sum", 2.0),
        ("constant", 0.25),
    ],
)
def test_two_sequences_of_two_and_six_tokens_with_opposite_advantages(averaging, expected):
    """On policy the token loss is -A: the worked numbers of each averaging."""
    samples = random_samples([2, 6], 0)
    samples[0].advantage, samples[1].advantage = 1.0, -1.0
    batch = padded(samples)
    weights = token_weights(batch, whole(batch), averaging, constant_length=8)
    assert float((-batch.advantages * weights).sum()) == pytest.approx(expected)


def test_prompt_mean_weighs_every_prompt_alike_whatever_its_tokens():
    batch = padded(random_samples([2, 6, 4], 0))
    groups = torch.tensor([0, 0, 1])
    ids = torch.where(batch.sequence_ids < 0, -1, groups[batch.sequence_ids.clamp(min=0)])
    batch = type(batch)(**{f: getattr(batch, f) for f in batch.__dataclass_fields__ if f != "group_ids"}, group_ids=ids)
    weights = token_weights(batch, denominator([batch], num_sequences=3, num_groups=2), "prompt_mean")
    assert float(weights[:2].sum()) == pytest.approx(0.5)
    assert float(weights[2].sum()) == pytest.approx(0.5)
    assert weights[weights > 0].unique().tolist() == pytest.approx([1 / 16, 1 / 8])


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=6), seed=st.integers(0, 999))
@pytest.mark.parametrize("averaging", [name for name in AVERAGINGS if name != "prompt_mean"])
def test_weights_of_the_parts_are_the_weights_of_the_whole(averaging, lengths, seed):
    samples = random_samples(lengths, seed, holes=True)
    cut = len(samples) // 2
    parts = [padded(samples[:cut]), packed(samples[cut:], first=cut)]
    together = add_denominators([denominator([p], num_sequences=len(samples)) for p in parts])
    at_once = denominator([padded(samples)], num_sequences=len(samples))
    assert together.tokens == at_once.tokens
    assert together.sequences == at_once.sequences == len(samples)
    assert together.tokens_per_sequence.tolist() == at_once.tokens_per_sequence.tolist()
    sums = [float(token_weights(p, together, averaging, 8).sum()) for p in parts]
    assert sum(sums) == pytest.approx(float(token_weights(padded(samples), at_once, averaging, 8).sum()))


def test_an_unknown_averaging_is_answered_with_the_known_ones():
    batch = padded(random_samples([2], 0))
    with pytest.raises(InvalidRequest, match="token_mean, sequence_mean_token_mean"):
        token_weights(batch, whole(batch), "mean")
