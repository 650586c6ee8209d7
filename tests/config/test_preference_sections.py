import pytest
from pydantic import ValidationError

from rlserve.config.algorithms.preference import DpoConfig, KtoConfig
from rlserve.config.load import load_run
from rlserve.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "ipo"}, "square then grows with length"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "has none"),
        ({"pairs": {"selection": "best_worst", "pairs_per_group": 2}}, "makes one pair"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(options, reason):
    with pytest.raises(ValidationError, match=reason):
        DpoConfig(**options)


def test_pairs_need_two_completions_of_a_task_but_kto_does_not():
    base = ["name=x", "model.path=m", 'environments=[{name="arithmetic"}]', "rollout.group_size=1"]
    with pytest.raises(ConfigError, match="group_size: is 1, but a pair takes 2"):
        load_run([], [*base, "algorithm.type=dpo"])
    assert isinstance(load_run([], [*base, "algorithm.type=kto"]).algorithm, KtoConfig)


def test_given_pairs_need_no_second_sample():
    base = ["name=x", "model.path=m", 'environments=[{name="arithmetic"}]', "rollout.group_size=1"]
    config = load_run([], [*base, "algorithm.type=dpo", "algorithm.pairs.selection=given"])
    assert config.rollout.group_size == 1
