import pytest

from rlserve.actors.learner.schedule import learning_rate
from rlserve.config.tables.learner import LearnerConfig


def test_warm_up_is_linear_and_reaches_the_rate_with_its_last_step():
    config = LearnerConfig(lr=8e-4, warmup_steps=4)
    rates = [learning_rate(config, step) for step in range(7)]
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4, 8e-4])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(LearnerConfig(lr=3e-4), 0) == 3e-4
