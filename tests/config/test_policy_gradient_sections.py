import pytest
from pydantic import TypeAdapter, ValidationError

from rlserve.config.algorithms import AlgorithmConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.load import load_run
from rlserve.errors import ConfigError

ALGORITHM = TypeAdapter(AlgorithmConfig)


@pytest.mark.parametrize("section", [GrpoConfig, CispoConfig, GspoConfig, ReinforceConfig])
def test_the_type_names_the_section(section):
    kind = section.model_fields["type"].default
    assert type(ALGORITHM.validate_python({"type": kind})) is section


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"averaging": "constant"}, "constant_length: is 0"),
        ({"constant_length": 5}, "constant_length: is 5"),
        ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, "expected gradient is 0"),
        ({"kl": {"coefficient": 0.1, "estimator": "k3", "place": "reward"}}, "no gradient of a divergence"),
        ({"advantage": "max_rl", "length_penalty": 0.1}, "needs rewards >= 0"),
        ({"advantage": "running_baseline"}, "groups of equal rewards do teach"),
        ({"importance_floor": 0.5}, "drops nothing"),
        ({"mode_limits": {"think": 100}}, "no effect without"),
        ({"overlong_buffer": 50, "mode_limits": {"think": 50}}, "not above overlong_buffer"),
        ({"dual_clip": 1.1}, "not above 1 \\+ clip_high"),
        ({"clip_hihg": 0.3}, "clip_hihg"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(options, reason):
    with pytest.raises(ValidationError, match=reason):
        GrpoConfig(**options)


def run_config(*overrides):
    return load_run([], ["name=x", "steps=1", "model.path=m", 'environments=[{name="arithmetic"}]', *overrides])


def test_an_unknown_key_of_an_algorithm_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"algorithm.clip_hihg: unknown key; did you mean 'clip_high'\?"):
        run_config("algorithm.type=grpo", "algorithm.clip_hihg=0.3")
    with pytest.raises(ConfigError, match=r"algorithm.kl.coeficient: unknown key; did you mean 'coefficient'\?"):
        run_config("algorithm.type=cispo", "algorithm.kl.coeficient=0.3")
    with pytest.raises(ConfigError, match=r"algorithm.clip_low: is 3; input should be less than 1"):
        run_config("algorithm.clip_low=3")


def test_a_group_of_one_needs_a_baseline_from_elsewhere():
    with pytest.raises(ConfigError, match=r"group_size: is 1, .* give at least 2"):
        run_config("rollout.group_size=1")
    run_config(
        "rollout.group_size=1",
        "algorithm.type=reinforce",
        "algorithm.advantage=running_baseline",
        "algorithm.zero_variance=keep",
    )


def test_an_overlong_buffer_longer_than_completions_is_refused():
    with pytest.raises(ConfigError, match="overlong_buffer: is 600"):
        run_config("algorithm.overlong_buffer=600")


def test_a_type_that_is_not_built_in_is_a_plug_in_with_free_options():
    config = run_config("algorithm.type=mine", "algorithm.options={a=1}").algorithm
    assert (config.type, config.options) == ("mine", {"a": 1})


def test_gspo_has_no_averaging_to_get_wrong():
    with pytest.raises(ValidationError, match="averaging"):
        GspoConfig(averaging="token_mean")
