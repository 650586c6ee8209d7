"""Other algorithms than the quick start's in whole runs: served teachers, semi-online and offline pairs."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main
from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whoever comes first waits for the quick start
Arguments = Callable[[Any], Sequence[str]]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def check_counts(summary: dict[str, Any]) -> None:
    check_counts_add_up(summary["groups"])


def test_a_policy_learns_from_a_served_teacher(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, quickstart: Any, tmp_path: Path
) -> None:
    """The teacher is the quick start's result. Half of the samples' reward would not be looked at."""
    run = new_run("distill")
    changes = f"""
steps = 6
[algorithm]
type = "distill"
[[teachers]]
name = "big"
model = "{quickstart.root}"
dtype = "float32"
max_length = 64
[evaluate]
problems = 300
[checkpoint]
every_steps = 0
"""
    over = write(tmp_path / "over.toml", changes)
    config, *rest = small_run_arguments(run)
    run.start(config, over, *rest, "--set", "steps=6", "--set", "evaluate.problems=300")
    assert run.wait(240) == 0, run.tail()
    summary = run.summary()
    check_counts(summary)
    assert "no_teacher" not in summary["groups"]["dropped"]
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.1
    rows = run.metrics()
    assert all(row["algorithm/taught"] == row["algorithm/tokens"] for row in rows)
    assert rows[-1]["algorithm/teacher_kl_sampled"] < rows[0]["algorithm/teacher_kl_sampled"]


@pytest.mark.whole
def test_pairs_train_semi_online_against_a_served_reference_in_several_updates(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path
) -> None:
    run = new_run("semi")
    changes = """
[algorithm]
type = "dpo"
[[teachers]]
name = "frozen"
model = "start"
dtype = "float32"
max_length = 64
[reference]
teacher = "frozen"
[sync]
every_steps = 3
"""
    over = write(tmp_path / "over.toml", changes)
    config, *rest = small_run_arguments(run)
    sets = ["steps=6", "evaluate.problems=0", "checkpoint.every_steps=0", "learner.minibatches=2"]
    run.start(config, over, *rest, *(word for change in sets for word in ("--set", change)))
    assert run.wait(240) == 0, run.tail()
    check_counts(run.summary())
    rows = run.metrics()
    assert [row["sync/steps_since"] for row in rows] == [1, 2, 0, 1, 2, 0]
    assert all(row["learner/updates"] == 2 for row in rows)
    assert max(row["lag/max"] for row in rows) <= 6
    # The policy begins as the reference: to rounding, its implicit rewards are 0 and the loss is ln 2.
    assert rows[0]["learner/loss"] == pytest.approx(0.69, abs=0.05)
    assert rows[-1]["algorithm/margin"] > rows[0]["algorithm/margin"]


def test_pairs_of_a_file_train_offline_with_a_reference_that_is_refreshed(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run("offline")
    graded = [
        {"prompt": f"{a}+{b}+1=", "completion": completion, "reward": reward, "right": bool(reward)}
        for a in range(8)
        for b in range(8)
        for completion, reward in ((f"#{(a + b + 1) % 10}", 1.0), (f"#{(a + b + 2) % 10}", 0.0))
    ]
    samples = write(tmp_path / "graded.jsonl", "".join(json.dumps(row) + "\n" for row in graded))
    assert main(["pairs", samples, "--out", str(tmp_path / "pairs.jsonl")]) == 0
    changes = f"""
[[environments]]
name = "pairs"
eval_weight = 0
options = {{ path = "{tmp_path / "pairs.jsonl"}" }}
[[environments]]
name = "arithmetic"
weight = 0
eval_weight = 1
[algorithm]
type = "dpo"
[algorithm.pairs]
selection = "given"
[sync]
every_steps = 2
[reference]
refresh_every_syncs = 2
"""
    over = write(tmp_path / "over.toml", changes)
    config, *rest = small_run_arguments(run)
    sets = ["steps=6", "evaluate.problems=50", "checkpoint.every_steps=0", "learner.groups_per_step=16"]
    sets += ["learner.warmup_steps=0"]
    run.start(config, over, *rest, *(word for change in sets for word in ("--set", change)))
    assert run.wait(240) == 0, run.tail()
    check_counts(run.summary())
    rows = run.metrics()
    assert [row["sync/reference_refreshed"] for row in rows] == [0, 0, 0, 1, 0, 0]
    assert all(row["algorithm/pairs"] == 16 for row in rows)
    # Where the reference is the policy, at the start and just refreshed, no pair has a margin: the loss is ln 2.
    assert max(abs(rows[step]["learner/loss"] - math.log(2)) for step in (0, 4)) < 1e-6
    away = [max(abs(row[f"algorithm/reward_{side}"]) for side in ("chosen", "rejected")) for row in rows]
    assert max(away[0], away[4]) < 1e-6
    assert min(away[1], away[2], away[3], away[5]) > 1e-5
    assert run.summary()["accuracy_after"] is not None


def test_samples_of_a_checkpoint_become_a_file_of_pairs(quickstart: Any, tmp_path: Path) -> None:
    graded, pairs = tmp_path / "graded.jsonl", tmp_path / "pairs.jsonl"
    start = str(quickstart.root / "start")
    asked = ["--problems", "40", "--samples", "4", "--out", str(graded)]
    assert main(["generate", start, "--config", str(quickstart.root / "config.toml"), *asked]) == 0
    rows = [json.loads(line) for line in graded.read_text().splitlines()]
    assert len(rows) == 160
    assert len({row["prompt"] for row in rows}) <= 40
    assert 0.2 < sum(row["right"] for row in rows) / 160 < 0.9
    assert main(["pairs", str(graded), "--out", str(pairs)]) == 0
    made = [json.loads(line) for line in pairs.read_text().splitlines()]
    right = {(row["prompt"], row["completion"]) for row in rows if row["right"]}
    assert all((row["prompt"], row["chosen"]) in right for row in made)
    assert not any((row["prompt"], row["rejected"]) in right for row in made)
