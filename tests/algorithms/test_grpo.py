from dataclasses import replace

import pytest
import torch

from rlserve.algorithms import metrics
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.algorithms.grpo import Grpo
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from tests.support.models.micro_batches import run
from tests.support.models.token_batches import as_float32, gather, padded, random_samples, scatter, whole


def test_more_padding_and_garbage_under_the_mask_change_nothing():
    samples = random_samples([3, 5], 3)
    narrow = padded(samples)
    wide = padded(samples, width=20)
    garbage = torch.where(wide.loss_mask > 0, wide.behavior_logprobs, torch.full_like(wide.loss_mask, 7.0))
    wide = replace(wide, behavior_logprobs=garbage)
    results = []
    for batch in (narrow, wide):
        policy = scatter(samples, "policy", batch)
        policy = torch.where(batch.loss_mask > 0, policy, torch.full_like(policy, -9.0)).requires_grad_()
        out = Grpo(GrpoConfig()).loss(PolicyOutputs(logprobs=policy), batch, whole(batch))
        out.loss.backward()
        results.append((float(out.loss.detach()), gather(policy.grad, samples, batch), metrics.results(out.metrics)))
        assert (policy.grad[batch.loss_mask == 0] == 0).all()
    assert results[0][0] == results[1][0]
    assert results[0][2] == pytest.approx(results[1][2])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_micro_batch_gives_zero_and_a_gradient_of_zeros():
    samples = random_samples([3], 0)
    batch = padded(samples)
    batch = replace(
        batch, loss_mask=torch.zeros_like(batch.loss_mask), sequence_ids=torch.full_like(batch.sequence_ids, -1)
    )
    policy = torch.full(batch.loss_mask.shape, -1.0, dtype=torch.float64, requires_grad=True)
    out = Grpo(GrpoConfig()).loss(PolicyOutputs(logprobs=policy), batch, whole(padded(samples)))
    out.loss.backward()
    assert float(out.loss.detach()) == 0
    assert (policy.grad == 0).all()
    assert metrics.results(out.metrics) == {"tokens": 0.0, "loss_policy": 0.0}


def test_on_policy_all_ratios_are_one():
    samples = random_samples([4, 2], 0, spread=0.0)
    _, _, measured = run(samples, [2], GrpoConfig())
    for name in ("ratio_mean", "ratio_max", "ratio_min", "ess", "ess_sequence"):
        assert measured[name] == pytest.approx(1.0)
    assert measured["mismatch_kl"] == pytest.approx(0.0)
    assert measured["clip_low"] == measured["clip_high"] == 0


def test_the_behaviour_ratio_is_measured_whatever_the_clip_stands_on():
    samples = random_samples([6, 6], 4, spread=0.8)
    bypass = run(samples, [2], GrpoConfig())[2]
    decoupled = run(samples, [2], GrpoConfig(), decoupled=True)[2]
    assert bypass["ess"] == decoupled["ess"] < 1
    assert bypass["mismatch_kl"] == decoupled["mismatch_kl"] > 0


def test_the_cap_bounds_the_weight_of_a_token_that_the_proximal_policy_prefers():
    samples = random_samples([1], 0, spread=0.0)
    samples[0].proximal = samples[0].policy
    samples[0].behavior = samples[0].policy - 3.0
    samples[0].advantage = 1.0
    for cap in (1.5, 2.0):
        _, gradients, _ = run(samples, [1], GrpoConfig(importance_cap=cap), decoupled=True)
        assert float(gradients[0]) == pytest.approx(-cap)


def test_float32_batches_as_the_pipeline_makes_them_agree_with_float64():
    samples = random_samples([5, 7], 1)
    batch = as_float32(padded(samples))
    out = Grpo(GrpoConfig()).loss(PolicyOutputs(logprobs=scatter(samples, "policy", batch)), batch, whole(batch))
    assert out.loss.dtype == torch.float32
    assert float(out.loss) == pytest.approx(run(samples, [2], GrpoConfig())[0], abs=1e-5)
