"""Multi-turn episodes in a whole run: real vLLM, real environment server, real learner."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Little training before, no groups left out, and no lag: every step is on policy.
OPTIONS = {
    "steps": 3,
    "pretrain.stage.steps": 10,
    "sft.stage.steps": 40,
    "sft.stage.cooldown_steps": 0,
    "rollout.group_size": 4,
    "learner.groups_per_step": 24,
    "learner.max_lag": 0,
    "algorithm.zero_variance": "keep",
    "evaluate.problems": 0,
    # One environment is sampled at another temperature than the others: its tokens are scored at that.
    "environments.1.sampling.temperature": 0.7,
}


def test_one_turn_and_many_train_together_and_trainer_and_generator_agree_on_every_token(
    new_run: Callable[[str], Any],
) -> None:
    run = new_run("games")
    run.start(
        "configs/games.toml",
        *(word for key, value in OPTIONS.items() for word in ("--set", f"{key}={value}")),
        *("--set", f"directory={run.root.parent}"),
    )
    assert run.wait(240) == 0, run.tail()
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {"reward/arithmetic/mean", "reward/guess/mean", "reward/calculator/mean"} <= set(row)
        assert row["reward/no_verdict_share"] == 0
        assert row["lag/max"] == 0
        assert row["algorithm/mismatch_kl"] < 1e-6
        assert row["algorithm/ratio_max"] == pytest.approx(1, abs=1e-3)
        assert row["algorithm/ratio_min"] == pytest.approx(1, abs=1e-3)
    groups = run.summary()["groups"]
    assert groups["received"] == groups["consumed"] + groups["queued"] + sum(groups["dropped"].values())
