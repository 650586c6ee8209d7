"""A configuration's sampling parameters reach the tasks, unless these have their own."""

from dataclasses import replace

import pytest

from rlserve.actors.environment.main import describe, load_environments
from rlserve.actors.environment.service import EnvironmentService
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.environments.arithmetic import ArithmeticEnvironment
from rlserve.records import Sampling, Task


class Own(ArithmeticEnvironment):
    def task(self, split: str, index: int, seed: int) -> Task:
        return replace(super().task(split, index, seed), sampling=Sampling(max_new_tokens=3))


@pytest.mark.parametrize(("own", "expected"), [(False, (0.5, 20)), (True, (0.5, 3))])
def test_a_task_takes_the_usual_sampling_where_it_has_none(own: bool, expected: tuple[float, int]) -> None:
    config = EnvironmentConfig.model_validate(
        {"name": "arithmetic", "sampling": {"temperature": 0.5, "max_new_tokens": 20}}
    )
    environments = {"arithmetic": Own()} if own else dict(load_environments([config]))
    service = EnvironmentService(environments, {"arithmetic": describe(environments["arithmetic"], config)})
    sampling = service.tasks.task(environments["arithmetic"], "train", 0, 0).sampling
    assert (sampling.temperature, sampling.max_new_tokens) == expected
