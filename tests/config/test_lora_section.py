"""``[learner.lora]``: its defaults, and what it cannot go with."""

from typing import Any

import pytest

from rlserve.config.resume import refuse_changes
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError


def run(lora: Any = None, **tables: Any) -> RunConfig:
    values: dict[str, Any] = {"name": "x", "model": {"path": "x"}, "environments": [{"name": "arithmetic"}], **tables}
    values["learner"] = {**values.get("learner", {}), **({} if lora is None else {"lora": lora})}
    return RunConfig.model_validate(values)


def test_an_empty_table_is_enough() -> None:
    lora = run({}).learner.lora
    assert lora is not None and lora.scale == 2.0 and lora.target_modules == "all-linear"
    assert run().learner.lora is None


@pytest.mark.parametrize(
    ("lora", "tables", "said"),
    [
        ({"rank": 0}, {}, "learner.lora.rank"),
        ({"target_modules": "q_proj"}, {}, "learner.lora.target_modules"),
        ({}, {"learner": {"publish_dtype": "float32"}}, "learner.publish_dtype: is 'float32' with"),
        ({}, {"reference": {"refresh_every_syncs": 2}}, "reference.refresh_every_syncs: is 2 with"),
        ({}, {"rollout": {"tensor_parallel": 2}}, "rollout.tensor_parallel: is 2 with"),
    ],
)
def test_what_it_cannot_go_with_is_named(lora: Any, tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(lora, **tables)


def test_a_resume_keeps_its_adapters() -> None:
    with pytest.raises(ConfigError, match=r"learner\.lora: would .*adapters belong to it"):
        refuse_changes(run({"rank": 8}), run({"rank": 16}))
    with pytest.raises(ConfigError, match=r"learner\.lora: would "):
        refuse_changes(run({}), run())
