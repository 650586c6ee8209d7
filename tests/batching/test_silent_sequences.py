"""Leaving out sequences without a gradient changes neither loss nor gradient, in no family and no averaging."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import registry
from rlserve.algorithms.policy_gradient import PolicyGradient
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, KlConfig, ReinforceConfig
from tests.support.groups import group
from tests.support.models.small_model import tiny_model, train_on

LAYOUT = BatchLayout(tokens_per_micro_batch=60, max_new_tokens=20)
AVERAGINGS = ("token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant", "prompt_mean")
CONFIGS = [
    *(
        config(averaging=name, constant_length=20 if name == "constant" else 0, zero_variance="keep")
        for config in (GrpoConfig, CispoConfig, ReinforceConfig)
        for name in AVERAGINGS
    ),
    GspoConfig(zero_variance="keep"),
    GrpoConfig(zero_variance="keep", dual_clip=3.0, off_policy_threshold=1.0),
]


class Whole:
    """The algorithm, with every sequence run through the model."""

    def __init__(self, algorithm: PolicyGradient) -> None:
        self._algorithm = algorithm
        self.loss = algorithm.loss

    def prepare(self, outcomes):
        return [replace(a, has_gradient=True) for a in self._algorithm.prepare(outcomes)]


@pytest.fixture(scope="module")
def model():
    return tiny_model("sdpa")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.type}-{getattr(c, 'averaging', '')}")
@settings(max_examples=6, deadline=None)
@given(rewards=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=3), min_size=1, max_size=4))
def test_neither_loss_nor_gradient_changes(model, config, rewards):
    groups = [group(r, index=i) for i, r in enumerate(rewards)]
    algorithm = registry.create(config)
    some = collate(groups, algorithm, LAYOUT, 0)
    loss, gradients, _ = train_on(model, some, algorithm)
    expected_loss, expected, _ = train_on(model, collate(groups, Whole(algorithm), LAYOUT, 0), algorithm)
    assert loss == pytest.approx(expected_loss, abs=1e-9)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)
    left_out = sum(len(r) for r in rewards if len(set(r)) == 1)
    assert some.summary["batch/sequences_without_gradient"] == left_out


@pytest.mark.parametrize(
    "config",
    [
        GrpoConfig(zero_variance="keep", entropy_coefficient=0.1),
        GrpoConfig(zero_variance="keep", z_loss_coefficient=0.1),
        GrpoConfig(zero_variance="keep", kl=KlConfig(coefficient=0.1)),
        MixedConfig(reward=GrpoConfig(zero_variance="keep"), distill=DistillConfig()),
    ],
    ids=["entropy", "z-loss", "kl", "mixed"],
)
def test_a_sequence_that_another_term_trains_is_run(config):
    batch = collate([group([1.0, 1.0]), group([1.0, 0.0], index=1)], registry.create(config), LAYOUT, 0)
    assert batch.summary["batch/sequences_without_gradient"] == 0


def test_a_loss_of_ones_own_sees_every_sequence_unless_it_says_otherwise():
    class Own(PolicyGradient[GrpoConfig]):
        pass

    batch = collate([group([1.0, 1.0])], Own(GrpoConfig(zero_variance="keep")), LAYOUT, 0)
    assert batch.summary["batch/sequences_without_gradient"] == 0
