"""Every policy-gradient loss: how the batch is cut changes nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from tests.support.models.micro_batches import run
from tests.support.models.token_batches import random_samples

KL = {"coefficient": 0.2}
CONFIGS = [
    GrpoConfig(),
    GrpoConfig(averaging="sequence_mean_token_mean", entropy_coefficient=0.1, z_loss_coefficient=1e-2),
    GrpoConfig(averaging="sequence_mean_token_sum", kl=KL),
    GrpoConfig(averaging="constant", constant_length=9, importance="sequence_truncate"),
    GrpoConfig(averaging="prompt_mean", off_policy_threshold=0.05),
    GrpoConfig(dual_clip=1.5, importance="token_mask", importance_cap=1.4, importance_floor=0.6),
    CispoConfig(max_ratio=1.2, kl=KL | {"estimator": "k3_unbiased"}),
    GspoConfig(clip_low=0.1, clip_high=0.1),
    ReinforceConfig(importance="sequence_mask", kl=KL | {"estimator": "k1", "place": "reward"}),
]


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=4, max_size=4), seed=st.integers(0, 9999), pack=st.booleans())
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.type}-{c.importance}")
def test_one_two_or_four_micro_batches_give_the_same_loss_gradient_and_metrics(config, lengths, seed, pack):
    samples = random_samples(lengths, seed, holes=True)
    once = run(samples, [4], config, decoupled=True)
    for splits in ([2, 2], [1, 1, 1, 1], [1, 3]):
        cut = run(samples, splits, config, pack=pack, decoupled=True)
        assert cut[0] == pytest.approx(once[0], abs=1e-12)
        for a, b in zip(cut[1], once[1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
        assert cut[2] == pytest.approx(once[2], abs=1e-9)


def test_the_mean_of_micro_batch_means_would_be_another_objective():
    samples = random_samples([2, 6], 0, spread=0.0)
    samples[0].advantage, samples[1].advantage = 1.0, -1.0
    once, _, _ = run(samples, [2], GrpoConfig())
    alone = [run([s], [1], GrpoConfig())[0] for s in samples]
    assert once == pytest.approx(0.5)
    assert sum(alone) / 2 == pytest.approx(0.0)


def test_a_masking_correction_reports_what_it_keeps():
    samples = random_samples([1, 1], 0, spread=0.0)
    samples[0].behavior = samples[0].policy - 3.0
    config = GrpoConfig(importance="token_mask", importance_cap=2.0)
    _, gradients, measured = run(samples, [2], config, decoupled=True)
    assert measured["importance_kept"] == pytest.approx(0.5)
    assert gradients[0] == 0
    assert gradients[1] != 0
