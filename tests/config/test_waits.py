"""Waits within a lease must be shorter than what a lease may stand still."""

from typing import Any

import pytest
from pydantic import ValidationError

from rlserve.config.run import RunConfig

TEACHER = {"name": "big", "model": "m", "max_length": 4096}


def config(**sections: Any) -> RunConfig:
    base = {"name": "x", "model": {"path": "x"}, "environments": [{"name": "arithmetic"}]}
    return RunConfig.model_validate({**base, **sections})


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"rollout": {"task_seconds": 25}}, "rollout.task_seconds is 25"),
        ({"rollout": {"verify_seconds": 20}}, "rollout.verify_seconds is 20"),
        ({"episodes": {"turn_seconds": 16}}, "episodes.turn_seconds is 16"),
        ({"teachers": [{**TEACHER, "score_seconds": 30}]}, "teachers.score_seconds of 'big' is 30"),
    ],
)
def test_a_lease_must_outlast_what_is_waited_for_within_it(sections: dict[str, Any], key: str) -> None:
    short = {"task_seconds": 1, "verify_seconds": 1}
    rollout = {**short, **sections.get("rollout", {})}
    with pytest.raises(ValidationError, match=rf"learner.lease_seconds: is 20, but {key}: .*give it more than"):
        config(**{**sections, "rollout": rollout, "learner": {"lease_seconds": 20}})
    config(**{**sections, "learner": {"lease_seconds": 200}})
