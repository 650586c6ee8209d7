"""docs/algorithms.md names every algorithm, every setting and every metric."""

from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from rlserve import plugins
from rlserve.algorithms import registry
from rlserve.algorithms.batch import PolicyOutputs
from rlserve.config.algorithms import BUILT_IN, DEFAULT, SECTIONS
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from rlserve.config.load import validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.plugins import ALGORITHM_GROUP
from tests.support.models.pair_batches import paired
from tests.support.models.token_batches import random_samples, scatter, whole

RUN = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}
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
    """The union of sections is the one list; entry points, documents and this file's cases agree with it."""
    own = {point.name for point in entry_points(group=ALGORITHM_GROUP) if point.value.startswith("rlserve.")}
    assert set(BUILT_IN) == own
    assert set(BUILT_IN) == {config.type for config in CONFIGS}
    for name, section in SECTIONS.items():
        assert plugins.load(ALGORITHM_GROUP, name).__name__ == section.__name__.removesuffix("Config")
        assert f"`{name}`" in DOCS or f'type = "{name}"' in DOCS


def test_an_algorithm_without_a_type_is_the_default_and_a_fault_is_that_of_its_own_section():
    assert validate(RunConfig, {**RUN, "algorithm": {"clip_low": 0.1}}).algorithm == GrpoConfig(clip_low=0.1)
    assert validate(RunConfig, RUN).algorithm == SECTIONS[DEFAULT]() == GrpoConfig()
    with pytest.raises(ConfigError) as error:
        validate(RunConfig, {**RUN, "algorithm": {"type": "gspo", "clip_lo": 0.1}})
    assert str(error.value).startswith("algorithm.clip_lo: ") and "\n" not in str(error.value)


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
