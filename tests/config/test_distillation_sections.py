import pytest
from pydantic import ValidationError

from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.load import load_run
from rlserve.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "options", "reason"),
    [
        (DistillConfig, {"beta": 0.5}, "estimates the reverse divergence only"),
        (DistillConfig, {"temperature": 2.0}, "sampled at rollout.temperature already"),
        (MixedConfig, {}, "fewer than two"),
        (MixedConfig, {"distill": {}}, "fewer than two"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(section, options, reason):
    with pytest.raises(ValidationError, match=reason):
        section(**options)


RUN = ["name=x", "model.path=m", 'environments=[{name="arithmetic"}]']
MIXTURE = [*RUN, "algorithm.type=mixed", "algorithm.reward.type=grpo", "algorithm.distill.estimator=sampled"]


def test_a_mixture_names_its_parts():
    config = MixedConfig.model_validate({"reward": {"type": "grpo", "clip_high": 0.3}, "distill": {}})
    assert isinstance(config.reward, GrpoConfig)
    assert config.reward.clip_high == 0.3
    with pytest.raises(ConfigError, match=r"algorithm.reward.clip_hihg: unknown key; did you mean 'clip_high'\?"):
        load_run([], [*MIXTURE, "algorithm.reward.clip_hihg=1"])


@pytest.mark.parametrize("overrides", [MIXTURE, [*RUN, "algorithm.type=distill"]])
def test_distillation_is_refused_without_a_teacher(overrides):
    with pytest.raises(ConfigError, match="teachers: there are none"):
        load_run([], overrides)


def test_a_mixture_checks_its_reward_part_first():
    with pytest.raises(ConfigError, match="group_size: is 1"):
        load_run([], [*MIXTURE, "rollout.group_size=1"])
