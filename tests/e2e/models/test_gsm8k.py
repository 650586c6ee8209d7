"""Real text through the whole path: GSM8K, long prompts, the math verifier."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

SHARED = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[4] / "shared"))
DATA = SHARED / "data" / "gsm8k_train.jsonl"


@pytest.mark.skipif(not DATA.exists(), reason="needs the GSM8K training file; set RLSERVE_SHARED to its folder")
def test_three_steps_on_the_whole_gsm8k_training_file(new_run: Callable[[str], Any]) -> None:
    run = new_run("gsm8k")
    run.start(
        "configs/gsm8k.toml",
        "--set",
        f"directory={run.root.parent}",
        "--set",
        f"environments.0.options.path={DATA}",
        "--set",
        f"pretrain.stage.corpus.options.path={DATA}",
    )
    assert run.wait(400) == 0, run.tail()
    summary = run.summary()
    groups = summary["groups"]
    assert summary["steps"] == 3 and summary["weight_updates"] >= 3
    assert groups["received"] == groups["consumed"] + groups["queued"] + sum(groups["dropped"].values())
    assert groups["consumed"] == 3 * 4
    assert all(row["reward/no_verdict_share"] == 0 for row in run.metrics())
