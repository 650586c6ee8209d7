"""Policy-gradient losses against TRL's own code and against closed forms, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from tests.support.models.token_batches import gather, padded, random_samples, scatter, whole, with_reference
from tests.support.models.trl_grpo import trl_grpo_loss

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)
MANY = settings(max_examples=40, deadline=None)
KL = {"coefficient": 0.3}


def ours(samples, config, decoupled=False):
    """(loss, gradient by each sample's log-probabilities)."""
    batch = with_reference(samples, padded(samples, decoupled=decoupled))
    policy = scatter(samples, "policy", batch).requires_grad_()
    outputs = PolicyOutputs(logprobs=policy, entropy=scatter(samples, "entropy", batch))
    out = registry.create(config).loss(outputs, batch, whole(batch))
    out.loss.backward()
    return float(out.loss.detach()), gather(policy.grad, samples, batch)


def assert_equal(left, right):
    assert left[0] == pytest.approx(right[0], abs=1e-9)
    for a, b in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


@MANY
@given(lengths=LENGTHS, seed=SEEDS, holes=st.booleans(), decoupled=st.booleans())
@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (GrpoConfig(), {"loss_type": "dapo"}),
        (GrpoConfig(averaging="sequence_mean_token_mean"), {"loss_type": "grpo"}),
        (GrpoConfig(averaging="constant", constant_length=16), {"loss_type": "dr_grpo"}),
        (GrpoConfig(dual_clip=1.5), {"loss_type": "dapo", "delta": 1.5}),
        (GrpoConfig(off_policy_threshold=0.1), {"loss_type": "dapo", "off_policy_mask_threshold": 0.1}),
        (GrpoConfig(entropy_coefficient=0.2), {"loss_type": "dapo", "entropy_coef": 0.2}),
        (CispoConfig(), {"loss_type": "cispo", "epsilon_high": 5.0}),
        (CispoConfig(max_ratio=1.2), {"loss_type": "cispo", "epsilon_high": 1.2}),
        (GspoConfig(), {"loss_type": "grpo", "level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
        (
            GspoConfig(clip_low=0.2, clip_high=0.3),
            {"loss_type": "grpo", "level": "sequence", "epsilon_low": 0.2, "epsilon_high": 0.3},
        ),
    ],
    ids=lambda value: value.type if hasattr(value, "type") else "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_policy_gradient_loss_oracle_trl(config, theirs, lengths, seed, holes, decoupled):
    # TRL measures the off-policy threshold from the proximal policy when no sampler is recorded
    decoupled = decoupled and "off_policy_mask_threshold" not in theirs
    samples = random_samples(lengths, seed, holes=holes)
    expected = trl_grpo_loss(samples, decoupled=decoupled, importance_cap=2.0, **theirs)
    assert_equal(ours(samples, config, decoupled), expected)


@MANY
@given(lengths=LENGTHS, seed=SEEDS, holes=st.booleans())
@pytest.mark.parametrize(("estimator", "corrected"), [("k3", False), ("k3_unbiased", True)])
def test_reference_divergence_in_the_loss_oracle_trl(estimator, corrected, lengths, seed, holes):
    samples = random_samples(lengths, seed, holes=holes)
    config = GrpoConfig(kl=KL | {"estimator": estimator})
    theirs = trl_grpo_loss(samples, loss_type="dapo", beta=0.3, bias_correction=corrected)
    assert_equal(ours(samples, config), theirs)


@MANY
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


@MANY
@given(lengths=LENGTHS, seed=SEEDS)
@pytest.mark.parametrize("importance", ["off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_reinforce_oracle_closed_form(importance, lengths, seed):
    samples = random_samples(lengths, seed)
    cap, floor = 1.5, 0.7
    masks = importance.endswith("mask")
    loss, gradients = 0.0, []
    for s in samples:
        w = (s.policy - s.behavior).exp()
        rho = torch.full_like(w, float(w.log().sum().exp())) if importance.startswith("sequence") else w
        weight = {
            "off": torch.ones_like(w),
            "truncate": rho.clamp(max=cap),
            "mask": rho * ((rho <= cap) & (rho >= floor)),
        }[importance.split("_")[-1]]
        loss -= float((weight * s.advantage * s.policy).sum()) / len(samples)
        gradients.append(-weight * s.advantage / len(samples))
    config = ReinforceConfig(
        importance=importance,
        importance_cap=cap,
        importance_floor=floor if masks else 0.0,
        averaging="sequence_mean_token_sum",
    )
    assert_equal(ours(samples, config), (loss, gradients))


@MANY
@given(lengths=LENGTHS, seed=SEEDS)
def test_decoupled_sequence_correction_oracle_closed_form(lengths, seed):
    """min(product of rho, cap) times PPO on the proximal policy."""
    samples = random_samples(lengths, seed)
    tokens = sum(lengths)
    loss, gradients = 0.0, []
    for s in samples:
        rho = min(float((s.proximal - s.behavior).sum().exp()), 3.0)
        policy = s.policy.clone().requires_grad_()
        w = (policy - s.proximal).exp()
        own = -torch.minimum(w * s.advantage, w.clamp(0.8, 1.28) * s.advantage).sum() * rho / tokens
        own.backward()
        loss += float(own.detach())
        gradients.append(policy.grad)
    config = GrpoConfig(importance="sequence_truncate", importance_cap=3.0)
    assert_equal(ours(samples, config, decoupled=True), (loss, gradients))


@MANY
@given(lengths=LENGTHS, seed=SEEDS)
def test_divergence_in_the_reward_oracle_closed_form(lengths, seed):
    """Each token's advantage loses beta (l - r), a constant."""
    samples = random_samples(lengths, seed)
    tokens = sum(lengths)
    loss, gradients = 0.0, []
    for s in samples:
        advantage = s.advantage - 0.3 * (s.policy - s.reference)
        loss -= float((advantage * s.policy).sum()) / tokens
        gradients.append(-advantage / tokens)
    config = ReinforceConfig(kl=KL | {"estimator": "k1", "place": "reward"}, importance="off")
    assert_equal(ours(samples, config), (loss, gradients))


def test_reinforce_truncated_by_token_is_cispo():
    samples = random_samples([4, 2, 6], 0, spread=0.8)
    reinforce = ReinforceConfig(importance="token_truncate", importance_cap=1.3)
    assert_equal(ours(samples, reinforce), ours(samples, CispoConfig(max_ratio=1.3)))


def test_gspo_drops_a_whole_sequence_where_ppo_clips_one_token():
    samples = random_samples([4], 0)
    samples[0].advantage = 1.0
    samples[0].behavior = samples[0].policy - torch.tensor([1.10, 0.95, 1.30, 0.90], dtype=torch.float64).log()
    loss, (gradient,) = ours(samples, GspoConfig())
    assert loss == pytest.approx(-(1 + 4e-4))
    assert gradient.tolist() == [0, 0, 0, 0]
    _, (gradient,) = ours(samples, GrpoConfig(clip_high=0.2))
    assert (gradient == 0).tolist() == [False, False, True, False]
    loss, _ = ours(samples, GspoConfig(clip_high=0.2))
    assert loss == pytest.approx(-1.0515, abs=1e-4)
