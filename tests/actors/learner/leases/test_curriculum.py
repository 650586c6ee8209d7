"""Curricula: levels are raised by what was mastered, never lowered, and survive a checkpoint."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.environments.arithmetic import ArithmeticEnvironment, operands
from rlserve.records import RolloutGroup
from tests.support.groups import group

LEVELS = ("digits-3", "digits-4", "digits-5")
HOME = MixtureEntry("arithmetic", "digits-3", 1.0)


def curriculum(window: int = 2, raise_at: float = 0.8) -> Curriculum:
    return Curriculum([EnvironmentConfig(name="arithmetic", levels=LEVELS, window=window, raise_at=raise_at)])


def played(split: str, *rewards: float | None) -> RolloutGroup:
    made = group(rewards)
    return replace(made, task=replace(made.task, split=split))


def split_of(found: Curriculum) -> str:
    return found.applied([HOME])[0].split


def test_a_level_is_raised_when_the_window_is_full_and_good_enough() -> None:
    found = curriculum()
    assert split_of(found) == "digits-3"
    found.observe(played("digits-3", 1.0, 1.0))
    assert split_of(found) == "digits-3"
    found.observe(played("digits-3", 1.0, 0.0))
    assert split_of(found) == "digits-3"  # 0.75
    found.observe(played("digits-3", 1.0, 1.0))
    assert split_of(found) == "digits-3"  # 0.75 still: the window moves on
    found.observe(played("digits-3", 1.0, 1.0))
    assert split_of(found) == "digits-4"
    assert found.metrics() == {"curriculum/arithmetic/level": 1.0}


def test_groups_of_another_level_or_without_verdicts_say_nothing() -> None:
    found = curriculum(window=1)
    found.observe(played("digits-4", 1.0, 1.0))
    found.observe(played("digits-3", None, None))
    assert split_of(found) == "digits-3"
    found.observe(played("digits-3", 1.0, None))
    assert split_of(found) == "digits-4"


@given(st.lists(st.tuples(st.sampled_from(LEVELS), st.sampled_from([0.0, 1.0])), max_size=30), st.integers(1, 4))
def test_levels_only_rise_and_end_at_the_last(plays: list[tuple[str, float]], window: int) -> None:
    found = curriculum(window=window)
    levels = [0.0]
    for split, reward in plays:
        found.observe(played(split, reward))
        levels.append(found.metrics()["curriculum/arithmetic/level"])
    assert levels == sorted(levels)
    assert levels[-1] <= 2
    again = curriculum(window=window)
    again.restore(found.to_json())
    assert (again.to_json(), split_of(again)) == (found.to_json(), split_of(found))


def test_environments_without_levels_are_left_alone() -> None:
    other = MixtureEntry("gsm8k", "train", 2.0)
    assert curriculum().applied([other, HOME])[0] == other
    assert Curriculum([EnvironmentConfig(name="arithmetic")]).metrics() == {}


def test_levels_are_checked_like_any_training_split() -> None:
    config = EnvironmentConfig(name="arithmetic", levels=LEVELS)
    assert config.split == "digits-3"
    assert EnvironmentConfig(**config.model_dump()) == config
    with pytest.raises(ValidationError, match="training never draws from test"):
        EnvironmentConfig(name="arithmetic", levels=("digits-3", "test"))
    with pytest.raises(ValidationError, match="leave one of the two out"):
        EnvironmentConfig(name="arithmetic", split="train", levels=LEVELS)
    with pytest.raises(ValidationError, match="eval_split"):
        EnvironmentConfig(name="arithmetic", levels=LEVELS, eval_split="digits-5")


def test_arithmetic_has_a_level_for_each_number_of_digits() -> None:
    environment = ArithmeticEnvironment()
    for level in LEVELS:
        prompts = [environment.task(level, index, 0).prompt for index in range(50)]
        assert {len(operands(str(prompt))) for prompt in prompts} == {int(level[-1])}
    assert "digits-6" not in environment.splits
