import pytest
from pydantic import ValidationError

from rlserve.config.algorithms import DistillConfig, GrpoConfig, MixedConfig
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


def test_a_mixture_names_its_parts():
    config = load_run(
        [],
        [
            "name=x",
            "model.path=m",
            'environments=[{name="arithmetic"}]',
            "algorithm.type=mixed",
            "algorithm.reward.type=grpo",
            "algorithm.reward.clip_high=0.3",
            "algorithm.distill.estimator=sampled",
        ],
    ).algorithm
    assert isinstance(config, MixedConfig)
    assert isinstance(config.reward, GrpoConfig)
    assert config.reward.clip_high == 0.3
    with pytest.raises(ConfigError, match=r"reward.clip_hihg: unknown key"):
        load_run([], ["name=x", "algorithm.type=mixed", "algorithm.reward.type=grpo", "algorithm.reward.clip_hihg=1"])
