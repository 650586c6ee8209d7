"""How far tokens may lag when weights are sent every so many steps."""

import pytest

from rlserve.config.run import RunConfig


@pytest.mark.parametrize(
    ("every_steps", "max_lag", "steps"),
    [(1, 2, 2), (8, 2, 16), (8, 0, 0), (0, 2, 50)],
)
def test_the_lag_bound_counts_syncs(every_steps: int, max_lag: int, steps: int) -> None:
    config = RunConfig.model_validate(
        {
            "name": "x",
            "steps": 50,
            "model": {"path": "x"},
            "environments": [{"name": "arithmetic"}],
            "sync": {"every_steps": every_steps},
            "learner": {"max_lag": max_lag},
        }
    )
    assert config.max_lag_steps == steps
    assert config.max_outstanding_groups == config.learner.groups_per_step * max(max_lag, 1)
    assert config.leases_ahead == (max_lag > 0)
