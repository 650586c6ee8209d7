"""docs/algorithms.md names every algorithm, every setting and every metric."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pair_batches import paired
from token_batches import random_samples, scatter, whole

from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.config.algorithms import BUILT_IN
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig

DOCS = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
CONFIGS = [
    GrpoConfig(kl={"coefficient": 0.1}),
    CispoConfig(),
    GspoConfig(),
    ReinforceConfig(),
    DpoConfig(),
    OrpoConfig(),
    KtoConfig(),
    DistillConfig(),
    DistillConfig(estimator="top_k"),
    MixedConfig(reward=GrpoConfig(), distill=DistillConfig(), supervised_weight=0.1),
]


def test_every_built_in_is_registered_and_documented():
    assert set(BUILT_IN) == {config.type for config in CONFIGS}
    assert set(BUILT_IN) <= set(registry.names())
    for name in BUILT_IN:
        assert f"`{name}`" in DOCS or f'type = "{name}"' in DOCS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.type)
def test_every_metric_is_documented(config):
    samples = random_samples([3, 2], 0)
    batch = paired(samples)
    top = torch.zeros(*batch.loss_mask.shape, 2, dtype=torch.float64) - 1.5
    batch = replace(
        batch,
        teacher_mask=batch.loss_mask,
        teacher_logprobs=scatter(samples, "reference", batch),
        teacher_top_logprobs=top,
        teacher_log_tail=top[..., 0],
        supervised_mask=batch.loss_mask,
    )
    policy = scatter(samples, "policy", batch)
    outputs = PolicyOutputs(logprobs=policy, entropy=policy**2, log_partition=policy, top_logprobs=top)
    for name in registry.create(config).loss(outputs, batch, whole(batch)).metrics:
        bare = name.removeprefix("reward_").removeprefix("distill_") if config.type == "mixed" else name
        assert f"`{name}`" in DOCS or f"`{bare}`" in DOCS or f"`distill_{bare}`" in DOCS


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.type)
def test_every_setting_is_documented_in_its_section(config):
    for name, field in type(config).model_fields.items():
        assert name == "type" or field.description or f"`{name}`" in DOCS, f"{config.type}.{name}"
