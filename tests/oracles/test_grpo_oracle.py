"""The GRPO loss against TRL's own code and against a closed form, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_batches import gather, padded, random_samples, scatter, whole
from trl_grpo import trl_grpo_loss

from rlserve.algorithms import grpo
from rlserve.config.algorithms import GrpoConfig

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)


def ours(samples, config, decoupled=False):
    batch = padded(samples, decoupled=decoupled)
    policy = scatter(samples, "policy", batch).requires_grad_()
    out = grpo.loss(policy, None, batch, whole(batch), config)
    out.loss.backward()
    return float(out.loss.detach()), gather(policy.grad, samples, batch)


def assert_equal(left, right):
    assert left[0] == pytest.approx(right[0], abs=1e-9)
    for a, b in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=SEEDS, holes=st.booleans(), decoupled=st.booleans())
@pytest.mark.parametrize(
    ("averaging", "loss_type"),
    [("token_mean", "dapo"), ("sequence_mean_token_mean", "grpo"), ("constant", "dr_grpo")],
)
def test_grpo_oracle_trl(averaging, loss_type, lengths, seed, holes, decoupled):
    samples = random_samples(lengths, seed, holes=holes)
    config = GrpoConfig(averaging=averaging, constant_length=16 if averaging == "constant" else 0)
    theirs = trl_grpo_loss(samples, loss_type=loss_type, decoupled=decoupled, importance_cap=2.0)
    assert_equal(ours(samples, config, decoupled), theirs)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=SEEDS)
def test_grpo_oracle_closed_form(lengths, seed):
    """Token by token in plain Python floats; the gradient is -A w unless the clip stops it."""
    samples = random_samples(lengths, seed)
    tokens = sum(lengths)
    loss, gradients = 0.0, []
    for s in samples:
        own = []
        for policy, behavior in zip(s.policy.tolist(), s.behavior.tolist(), strict=True):
            w = math.exp(policy - behavior)
            loss -= min(w * s.advantage, min(max(w, 0.8), 1.28) * s.advantage) / tokens
            stopped = (s.advantage > 0 and w > 1.28) or (s.advantage < 0 and w < 0.8)
            own.append(0.0 if stopped else -s.advantage * w / tokens)
        gradients.append(torch.tensor(own, dtype=torch.float64))
    assert_equal(ours(samples, GrpoConfig()), (loss, gradients))
