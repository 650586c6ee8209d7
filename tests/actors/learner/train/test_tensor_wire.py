import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlserve.actors.learner.train.tensor_wire import DTYPES, pack, take_record, unpack, values_of
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import denominator
from rlserve.errors import StateCorrupt
from tests.support.models.learner_work import random_batch, split

SHAPES = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw):
    shape, dtype = draw(SHAPES), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return (100 * torch.randn(shape, generator=generator)).to(dtype)


@given(st.lists(st.one_of(st.none(), st.floats(), tensors())))
def test_values_come_back_with_type_shape_and_every_bit(values):
    returned = unpack(*pack(values))
    assert len(returned) == len(values)
    for before, after in zip(values, returned, strict=True):
        if isinstance(before, torch.Tensor):
            assert after.dtype == before.dtype and after.shape == before.shape
            assert after.flatten().view(torch.uint8).equal(before.flatten().view(torch.uint8))
        else:
            assert repr(after) == repr(before)


def test_records_come_back_in_order_whether_their_tensors_are_contiguous_or_not():
    batch = random_batch(0)
    parts = split(batch, 2)
    total = denominator([batch], num_sequences=16, num_groups=4)
    values = iter(unpack(*pack(values_of([total, *parts]))))
    assert take_record(type(total), values).tokens_per_group.equal(total.tokens_per_group)
    for part in parts:
        again = take_record(TokenBatch, values)
        assert again.token_ids.equal(part.token_ids) and again.loss_mask.equal(part.loss_mask)
        assert again.proximal_logprobs is None
    transposed = unpack(*pack([batch.token_ids.T]))[0]
    assert transposed.equal(batch.token_ids.T)


@pytest.mark.parametrize("change", [-1, 1])
def test_content_that_does_not_fit_its_announcement_is_refused(change):
    schema, content = pack([torch.ones(5), 2.0])
    resized = content[:change] if change < 0 else torch.cat([content, content[:change]])
    with pytest.raises(StateCorrupt, match="announced"):
        unpack(schema, resized)
