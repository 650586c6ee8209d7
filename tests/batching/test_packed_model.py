"""Packed rows through a real model give what padded rows give: loss, gradient and metrics."""

import pytest
import torch

from rlserve.algorithms import registry
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from tests.support.groups import group
from tests.support.models.small_model import tiny_model, train_on


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("averaging", ["token_mean", "sequence_mean_token_mean"])
def test_packing_splits_and_ranks_change_neither_loss_nor_gradient_nor_metrics(attention, averaging):
    model = tiny_model(attention)
    algorithm = registry.create(GrpoConfig(averaging=averaging))
    groups = [group([1, 0, 0], [3, 9, 5], index=0), group([0, 1, 1, 0], [7, 2, 1, 8], index=1)]
    layouts = [
        BatchLayout(tokens_per_micro_batch=1000, max_new_tokens=20),
        BatchLayout(tokens_per_micro_batch=24, max_new_tokens=20),
        BatchLayout(tokens_per_micro_batch=12, max_new_tokens=20, ranks=2),
        BatchLayout(tokens_per_micro_batch=1000, max_new_tokens=20, packing=True),
        BatchLayout(tokens_per_micro_batch=20, max_new_tokens=20, packing=True, ranks=3),
    ]
    results = [train_on(model, collate(groups, algorithm, layout, 0), algorithm) for layout in layouts]
    assert results[0][0] != 0
    for loss, gradients, measured in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-6)
        assert measured == pytest.approx(results[0][2], abs=1e-5)
        for a, b in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_packed_sequences_would_see_each_other_if_positions_did_not_restart():
    model = tiny_model("sdpa")
    algorithm = registry.create(GrpoConfig())
    batch = collate(
        [group([1, 0])], algorithm, BatchLayout(tokens_per_micro_batch=99, max_new_tokens=20, packing=True), 0
    )
    ((micro,),) = batch.micro_batches
    right = model(input_ids=micro.token_ids, position_ids=micro.position_ids, use_cache=False).logits
    wrong = model(input_ids=micro.token_ids, use_cache=False).logits
    second = micro.sequence_ids[0] == micro.sequence_ids[0, -1]
    assert not torch.allclose(right[0, second], wrong[0, second], atol=1e-3)
