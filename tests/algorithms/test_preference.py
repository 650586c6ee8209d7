import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import metrics, registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.algorithms.masked import denominator, with_reference
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from rlserve.errors import InvalidRequest
from tests.support.models.pair_batches import paired, run
from tests.support.models.token_batches import random_samples, scatter, whole

CONFIGS = [
    DpoConfig(nll_coefficient=0.3),
    DpoConfig(loss="ipo", length_normalized=True),
    DpoConfig(loss="apo_down"),
    OrpoConfig(),
    KtoConfig(),
]


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=8, max_size=8), seed=st.integers(0, 9999), pack=st.booleans())
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.type}-{getattr(c, 'loss', '')}")
def test_one_two_or_four_micro_batches_give_the_same_loss_gradient_and_metrics(config, lengths, seed, pack):
    samples = random_samples(lengths, seed)
    once = run(samples, [8], config)
    for splits in ([4, 4], [2, 2, 2, 2], [2, 6]):
        cut = run(samples, splits, config, pack=pack)
        assert cut[0] == pytest.approx(once[0], abs=1e-12)
        for a, b in zip(cut[1], once[1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
        assert cut[2] == pytest.approx(once[2], abs=1e-9)


def test_the_gradient_of_dpo_is_its_closed_form():
    samples = random_samples([3, 4], 1)
    _, (chosen, rejected), measured = run(samples, [2], DpoConfig(beta=0.3))
    weight = 0.3 / (1 + torch.tensor(measured["margin"]).exp())
    assert chosen.tolist() == pytest.approx([-float(weight)] * 3)
    assert rejected.tolist() == pytest.approx([float(weight)] * 4)


def test_metrics_say_which_way_the_policy_leans():
    samples = random_samples([2, 2], 0)
    samples[0].reference = samples[0].policy - 1.0
    samples[1].reference = samples[1].policy + 1.0
    _, _, measured = run(samples, [2], DpoConfig(beta=0.1))
    assert measured["pair_accuracy"] == 1
    assert measured["margin"] == pytest.approx(0.4)
    assert measured["reward_chosen"] == pytest.approx(0.2)
    assert measured["reward_rejected"] == pytest.approx(-0.2)
    assert measured["pairs"] == 1
    assert measured["logprob_chosen"] == pytest.approx(float(samples[0].policy.sum()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.type}-{getattr(c, 'loss', '')}")
def test_an_empty_micro_batch_gives_zero_and_a_gradient_of_zeros(config):
    samples = random_samples([3, 2], 0)
    batch = paired(samples)
    empty = type(batch)(**{n: getattr(batch, n) for n in batch.__dataclass_fields__}).__class__
    blank = empty(
        **{
            n: torch.full_like(v, -1) if n in ("sequence_ids", "pair_ids") else torch.zeros_like(v)
            for n in batch.__dataclass_fields__
            if isinstance(v := getattr(batch, n), torch.Tensor)
        }
    )
    policy = torch.full_like(batch.loss_mask, -1.0).requires_grad_()
    out = registry.create(config).loss(PolicyOutputs(logprobs=policy), blank, whole(batch))
    out.loss.backward()
    assert float(out.loss.detach()) == 0
    assert (policy.grad == 0).all()
    assert set(metrics.results(out.metrics)) <= {"tokens", "pairs"}


@pytest.mark.parametrize("config", [DpoConfig(), KtoConfig()])
def test_a_missing_reference_is_an_error_not_a_zero(config):
    samples = random_samples([3, 2], 0)
    batch = paired(samples)
    bare = type(batch)(**{n: getattr(batch, n) for n in batch.__dataclass_fields__ if n != "reference_logprobs"})
    with pytest.raises(InvalidRequest, match="reference_logprobs"):
        registry.create(config).loss(PolicyOutputs(logprobs=scatter(samples, "policy", bare)), bare, whole(bare))


def test_orpo_needs_no_reference_and_dpo_says_that_it_does():
    assert "reference_logprobs" not in registry.create(OrpoConfig()).needs
    assert "reference_logprobs" in registry.create(DpoConfig()).needs


def test_orpo_is_finite_when_the_policy_is_certain():
    samples = random_samples([3, 2], 0)
    samples[0].policy = torch.zeros(3, dtype=torch.float64)
    loss, gradients, _ = run(samples, [2], OrpoConfig())
    assert torch.isfinite(torch.tensor(loss))
    assert all(torch.isfinite(g).all() for g in gradients)


def test_the_baseline_of_kto_is_the_samplers_divergence_from_the_reference():
    samples = random_samples([3, 2, 4, 1], 2)
    batch = paired(samples)
    shared = denominator([batch], num_sequences=4)
    expected = sum(float((s.behavior - s.reference).sum()) for s in samples) / 4
    assert shared.reference_gap / shared.sequences == pytest.approx(expected)
    assert with_reference(whole(batch), [batch]).reference_gap == pytest.approx(shared.reference_gap)
    _, _, measured = run(samples, [2, 2], KtoConfig())
    assert measured["baseline_kl"] == pytest.approx(max(expected, 0.0))
