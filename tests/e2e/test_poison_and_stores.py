"""What spoils a run or its files, in whole runs: they go on, or say at once how to."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import poisoned_plugins
import pytest

from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Arguments = Callable[[Any], Sequence[str]]
SUPPORT = Path(__file__).parents[1] / "support" / "plugins"


def sets(**changes: object) -> list[str]:
    return [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


SHORT = sets(rollout__group_size=4, learner__groups_per_step=8, checkpoint__every_steps=2, steps=6)
ALONE = sets(launch__learner_restarts=0)  # the user resumes


@pytest.fixture
def doses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one dose of poison; the plug-ins that take it are installed."""
    poisoned_plugins.install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(SUPPORT)]))
    doses = tmp_path / "doses"
    doses.mkdir()
    (doses / "1").touch()
    return doses


def poison(run: Any) -> list[dict[str, Any]]:
    return [e for e in run.events("warning") if str(e.get("cause", "")).startswith("not_finite")]


def test_one_poisoned_reward_and_a_kill_after_it_and_the_run_goes_on(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path, doses: Path
) -> None:
    """In between its store is missing, and somebody resumes with another seed: refused, and nothing is changed."""
    run = new_run("poisoned")
    over = tmp_path / "over.toml"
    over.write_text(
        '[[environments]]\nname = "arithmetic"\nplugin = "poisoned"\n[algorithm]\ntype = "exponential"\n'
        f'[verifier.options.poisoned]\ndoses = "{doses}"\n'
    )
    config, *rest = small_run_arguments(run)
    run.start(config, str(over), *rest, *SHORT, *ALONE, "--no-preflight")  # whose look would take the dose
    run.wait_until("the poison", lambda: bool(poison(run)), 300)
    (warning,) = poison(run)
    (culprit,) = warning["groups"]
    assert culprit in warning["message"] and "of rollout-0" in warning["message"]
    assert "verifier poisoned" in warning["message"] and "1e+06" in warning["message"]
    run.wait_for_step(3)
    os.kill(run.pid_of("learner"), signal.SIGKILL)
    assert run.wait(120) == 1
    assert "rlserve run --resume" in run.output.read_text()
    run.wait_until_nothing_runs()

    (run.root / "groups.sqlite").rename(run.root / "elsewhere.sqlite")
    run.start("--resume", str(run.root))
    assert run.wait(240) == 1
    assert "groups.sqlite is missing" in run.output.read_text()
    assert f"rlserve run --resume {run.root} --restore-store" in run.output.read_text()
    assert not (run.root / "groups.sqlite").exists()
    (run.root / "elsewhere.sqlite").rename(run.root / "groups.sqlite")
    run.start("--resume", str(run.root), "--set", "seed=5")
    assert run.wait(60) != 0
    assert "seed: is 5, but this run began with 0" in run.output.read_text()
    assert "seed = 0" in (run.root / "config.toml").read_text()

    run.start("--resume", str(run.root))
    assert run.wait(400) == 0, run.tail()
    summary = run.summary()
    assert summary["steps"] == 6
    assert summary["groups"]["dropped"]["not_finite"] == 1
    assert summary["groups"]["consumed"] == 6 * 8
    check_counts_add_up(summary["groups"])
    assert len(poison(run)) == 1  # what was skipped is not met again
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]  # the curve never runs back
    copies = list((run.root / "checkpoints").glob("step-*/training/groups.sqlite"))
    assert len(copies) == 2


@pytest.mark.whole
def test_a_measurement_that_a_kill_cut_off_is_made_after_the_resume(
    new_run: Callable[[str], Any], small_run_arguments: Arguments
) -> None:
    """The store is lost too: the run goes on with the copy in its checkpoint."""
    run = new_run("owed")
    config, *rest = small_run_arguments(run)
    run.start(config, *rest, *SHORT, *ALONE, *sets(evaluate__problems=60, evaluate__every_steps=2, steps=3))
    run.wait_until("the measurement", lambda: any(e["name"] == "evaluate_at-2" for e in run.events("phase")), 300)
    os.kill(run.pid_of("learner"), signal.SIGKILL)
    assert run.wait(120) == 1
    run.wait_until_nothing_runs()
    made = [e["when"] for e in run.events("accuracy")]
    (run.root / "groups.sqlite").write_bytes(b"not a store at all" * 1000)
    run.start("--resume", str(run.root), "--restore-store")
    assert run.wait(400) == 0, run.tail()
    when = [e["when"] for e in run.events("accuracy")]
    assert when == [*made, "at-2", "after"]
    at_2 = run.events("accuracy")[-2]
    assert (at_2["step"], at_2["versions"]) == (2, [2])
    assert [row["step"] for row in run.measurements()][-2:] == [2, 3]
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.summary()["groups"]["consumed"] == 3 * 8
    check_counts_add_up(run.summary()["groups"])


@pytest.mark.whole
def test_a_run_that_no_answer_solves_says_so_within_a_batch_and_ends(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path
) -> None:
    run = new_run("hopeless")
    rows = [json.dumps({"prompt": f"{a}+{b}+1=", "answer": "impossible"}) for a in range(8) for b in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    over = tmp_path / "over.toml"
    options = f'{{ path = "{tmp_path / "rows.jsonl"}", verifier = "exact" }}'
    over.write_text(f'[[environments]]\nname = "dataset"\noptions = {options}\n')
    config, *rest = small_run_arguments(run)
    run.start(config, str(over), *rest, *SHORT, *sets(learner__max_wait_seconds=15))
    assert run.wait(400) == 1
    (warning, *_) = [e["message"] for e in run.events("warning") if str(e.get("cause")).startswith("lost")]
    assert "zero_variance (all samples of a task have the same reward)" in warning
    assert int(warning.split()[2]) < 8 * 8  # before the wait was over
    output = run.output.read_text()
    assert "no group that teaches came for 15 s" in output and "zero_variance" in output


@pytest.mark.whole
def test_a_worker_that_freezes_before_a_measurement_is_named_and_left_out(
    new_run: Callable[[str], Any], small_run_arguments: Arguments
) -> None:
    run = new_run("frozen")
    config, *rest = small_run_arguments(run)
    changes = sets(
        rollout__workers=2, evaluate__problems=40, evaluate__every_steps=2, steps=4, learner__lease_seconds=20
    )
    changes += sets(rollout__task_seconds=10, rollout__verify_seconds=10)  # within a lease
    run.start(config, *rest, *SHORT, *changes, *sets(launch__stop_seconds=5))
    run.wait_until("both workers", lambda: len(run.events("worker_joined")) == 2, 400)
    run.wait_until("a step of the first two", lambda: run.last_step() >= 1, 400)
    frozen = run.pid_of("rollout-1")
    os.kill(frozen, signal.SIGSTOP)
    assert run.wait(600) == 0, run.tail()
    (warning, *_) = [e["message"] for e in run.events("warning") if str(e.get("cause")).startswith("laggards")]
    assert "rollout-1" in warning and "by rollout-0" in warning
    assert {e["when"] for e in run.events("accuracy")} >= {"before", "at-2", "after"}
    assert all(len(e["versions"]) == 1 for e in run.events("accuracy"))
    check_counts_add_up(run.summary()["groups"])
