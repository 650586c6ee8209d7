"""Preference losses against TRL's own code and against closed forms, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import dpo, kto, orpo
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.algorithms.masked import denominator
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from tests.support.models.pair_batches import paired, run
from tests.support.models.token_batches import gather, random_samples, scatter
from tests.support.models.trl_preference import trl_dpo_loss, trl_kto_loss, trl_orpo_ratio_loss

PAIRS = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31)
MANY = settings(max_examples=40, deadline=None)


def assert_equal(left, right):
    assert left[0] == pytest.approx(right[0], abs=1e-9)
    for a, b in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def flatten(pairs):
    return [length for pair in pairs for length in pair]


@MANY
@given(pairs=PAIRS, seed=SEEDS, beta=st.floats(0.05, 2))
@pytest.mark.parametrize(
    ("options", "loss_types"),
    [
        ({}, ["sigmoid"]),
        ({"loss": "hinge"}, ["hinge"]),
        ({"loss": "ipo", "length_normalized": True}, ["ipo"]),
        ({"loss": "apo_zero"}, ["apo_zero"]),
        ({"loss": "apo_down"}, ["apo_down"]),
        ({"length_normalized": True}, ["sigmoid_norm"]),
        ({"nll_coefficient": 0.5}, ["sigmoid", "sft"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_dpo_family_oracle_trl(options, loss_types, pairs, seed, beta):
    samples = random_samples(flatten(pairs), seed)
    chosen, rejected = samples[::2], samples[1::2]
    loss, gradients = trl_dpo_loss(
        chosen, rejected, beta=beta, loss_types=loss_types, loss_weights=[1.0, 0.5][: len(loss_types)]
    )
    interleaved = [g for i in range(len(pairs)) for g in (gradients[i], gradients[len(pairs) + i])]
    ours = run(samples, [len(samples)], DpoConfig(beta=beta, **options))
    assert_equal(ours, (loss, interleaved))


def kto_of(samples, good, config, z):
    batch = paired(samples)
    preferred = torch.zeros_like(batch.loss_mask)
    for number, is_good in enumerate(good):
        preferred[batch.sequence_ids == number] = float(is_good)
    batch = type(batch)(
        **{n: getattr(batch, n) for n in batch.__dataclass_fields__ if n not in ("preferred", "weights")},
        preferred=preferred,
        weights=torch.full_like(preferred, 1 / len(samples)),
    )
    policy = scatter(samples, "policy", batch).requires_grad_()
    shared = replace(denominator([batch], num_sequences=len(samples)), reference_gap=z * len(samples))
    out = kto.Kto(config).loss(PolicyOutputs(logprobs=policy), batch, shared)
    out.loss.backward()
    return float(out.loss.detach()), gather(policy.grad, samples, batch)


@MANY
@given(
    cases=st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=2, max_size=6),
    seed=SEEDS,
    z=st.floats(0, 2),
)
@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_kto_oracle_trl(loss_type, cases, seed, z):
    samples, good = random_samples([length for length, _ in cases], seed), [g for _, g in cases]
    config = KtoConfig(loss=loss_type, desirable_weight=1.3, undesirable_weight=0.8)
    theirs = trl_kto_loss(samples, good, z, loss_type=loss_type, beta=0.1, desirable_weight=1.3, undesirable_weight=0.8)
    assert_equal(kto_of(samples, good, config, z), theirs)


@MANY
@given(pairs=PAIRS, seed=SEEDS)
def test_orpo_oracle_closed_form(pairs, seed):
    """Autograd of the formula written out over whole sequences."""
    samples = random_samples(flatten(pairs), seed)
    leaves = [s.policy.clone().requires_grad_() for s in samples]
    means = [leaf.mean() for leaf in leaves]
    tokens = sum(s.tokens for s in samples[::2])
    loss = -sum(leaf.sum() for leaf in leaves[::2]) / tokens
    for c, j in zip(means[::2], means[1::2], strict=True):
        odds = torch.log(c.exp() / (1 - c.exp())) - torch.log(j.exp() / (1 - j.exp()))
        loss = loss - 0.1 * torch.log(torch.sigmoid(odds)) / len(pairs)
    loss.backward()
    ours = run(samples, [len(samples)], OrpoConfig())
    assert_equal(ours, (float(loss.detach()), [leaf.grad for leaf in leaves]))


@MANY
@given(chosen=st.floats(-6, -0.01), rejected=st.floats(-6, -0.01))
def test_orpo_odds_oracle_trl(chosen, rejected):
    c, j = torch.tensor([chosen]), torch.tensor([rejected])
    ours = torch.nn.functional.logsigmoid(orpo.log_odds_ratio(c, j))
    torch.testing.assert_close(ours, trl_orpo_ratio_loss(c, j), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "normalise", "expected"),
    [
        ({}, False, 0.4741),
        ({"loss": "hinge"}, False, 0.5),
        ({"loss": "ipo", "length_normalized": True}, True, 21.62),
        ({"loss": "ipo", "length_normalized": True}, False, 0.0),
        ({"loss": "apo_zero"}, False, 0.8757),
        ({"loss": "apo_down"}, False, 0.9274),
        ({"length_normalized": True}, True, 0.6758),
    ],
)
def test_losses_of_one_pair_have_the_worked_values(options, normalise, expected):
    """beta 0.1, log-ratios +2 and -3 over 10 and 20 tokens."""
    c, j = torch.tensor([2.0 / (10 if normalise else 1)]), torch.tensor([-3.0 / (20 if normalise else 1)])
    value = float(dpo.log_ratio_loss(c.double(), j.double(), DpoConfig(**options)))
    assert value == pytest.approx(expected, abs=5e-3 if expected > 1 else 1e-4)


@pytest.mark.parametrize(
    ("loss", "expected"), [("sigmoid", math.log(2)), ("hinge", 1), ("ipo", 25), ("apo_zero", 1), ("apo_down", 1)]
)
def test_losses_at_the_reference_have_their_known_values(loss, expected):
    zero = torch.zeros(1, dtype=torch.float64)
    config = DpoConfig(loss=loss, length_normalized=loss == "ipo")
    assert float(dpo.log_ratio_loss(zero, zero, config)) == pytest.approx(expected)


def test_the_worked_values_of_kto_and_orpo():
    a, good = torch.tensor([2.0, -3.0], dtype=torch.float64), torch.tensor([1.0, 0.0])
    assert kto.sequence_loss(a, good, 0.5, KtoConfig()).tolist() == pytest.approx([0.4626, 0.4134], abs=1e-4)
    odds = orpo.log_odds_ratio(torch.tensor(-0.5, dtype=torch.float64), torch.tensor(-1.2, dtype=torch.float64))
    assert float(odds) == pytest.approx(1.2744, abs=1e-4)
    total = 0.5 - 0.1 * math.log(1 / (1 + math.exp(-float(odds))))
    assert total == pytest.approx(0.5247, abs=1e-4)


def test_smoothed_labels_oracle_the_mixture_of_both_orders():
    c, j = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-1.1], dtype=torch.float64)
    plain = DpoConfig()
    mixed = 0.8 * dpo.log_ratio_loss(c, j, plain) + 0.2 * dpo.log_ratio_loss(j, c, plain)
    assert float(dpo.log_ratio_loss(c, j, DpoConfig(label_smoothing=0.2))) == pytest.approx(float(mixed))


@pytest.mark.parametrize(("loss", "chosen", "rejected"), [("apo_zero", 1, -1), ("apo_down", -1, -1)])
def test_apo_moves_each_side_in_its_own_direction(loss, chosen, rejected):
    """apo_zero raises the chosen; apo_down lowers it too, once the rejected is behind."""
    samples = random_samples([3, 3], 0)
    for s in samples:
        s.reference = s.policy.clone()
    if loss == "apo_down":
        samples[1].reference = samples[1].policy + 1.0
    _, (of_chosen, of_rejected), _ = run(samples, [2], DpoConfig(loss=loss, beta=1.0))
    assert (-of_chosen.sign() == chosen).all()
    assert (-of_rejected.sign() == rejected).all()
