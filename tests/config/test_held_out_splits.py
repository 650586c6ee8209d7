"""Training never draws from what is held out."""

import pytest
from pydantic import ValidationError

from rlserve.config.tables.environment import EnvironmentConfig


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_held_out_split_is_not_trained_on(split: str) -> None:
    with pytest.raises(ValidationError, match=rf"split: is '{split}'; training never draws from test, validation"):
        EnvironmentConfig(name="arithmetic", split=split, eval_split="dev")


def test_what_is_trained_on_is_not_measured_on() -> None:
    with pytest.raises(ValidationError, match="eval_split: is 'train', which training draws from"):
        EnvironmentConfig(name="arithmetic", eval_split="train")
    assert EnvironmentConfig(name="arithmetic", split="level1", eval_split="validation").split == "level1"
