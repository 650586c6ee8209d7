"""Whole runs that get nothing to train on: the cause is mended, or named within seconds."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import starving_plugins

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Arguments = Callable[[Any], Sequence[str]]
SUPPORT = Path(__file__).parents[1] / "support" / "plugins"
SHORT = [
    word
    for change in ("rollout.group_size=4", "learner.groups_per_step=8", "steps=6", "rollout.stall_seconds=5")
    for word in ("--set", change)
]


def engine_of(run: Any) -> int:
    """The process of rollout-0 that samples."""
    for child in psutil.Process(run.pid_of("rollout-0")).children(recursive=True):
        if "EngineCore" in " ".join(child.cmdline()) or "EngineCore" in child.name():
            return int(child.pid)
    raise AssertionError(run.tail())


def test_an_engine_that_freezes_for_ever_is_replaced(
    new_run: Callable[[str], Any], small_run_arguments: Arguments
) -> None:
    run = new_run("frozen")
    run.start(*small_run_arguments(run), *SHORT)
    run.wait_for_step(2)
    os.kill(engine_of(run), signal.SIGSTOP)
    frozen = time.monotonic()
    run.wait_until("the warning", lambda: any("EngineCore hangs" in e["message"] for e in run.events("warning")), 120)
    told = time.monotonic() - frozen
    assert run.wait(400) == 0, run.tail()
    assert run.summary()["steps"] == 6
    assert {event["actor"] for event in run.events("actor_died")} == {"rollout-0"}
    assert told < 60, f"told after {told:.0f} s"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starving_plugins.install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(SUPPORT)]))


def with_environment(tmp_path: Path, plugin: str) -> str:
    over = tmp_path / "over.toml"
    over.write_text(f'[[environments]]\nname = "arithmetic"\nplugin = "{plugin}"\n')
    return str(over)


@pytest.mark.usefixtures("plugins")
def test_a_reward_function_that_raises_ends_the_run_at_its_first_batch(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path
) -> None:
    run = new_run("raises")
    config, *rest = small_run_arguments(run)
    # A look before the start would refuse it; a verifier may also break later.
    run.start(config, with_environment(tmp_path, "raises"), *rest, *SHORT, "--no-preflight")
    assert run.wait(300) == 1
    said = run.output.read_text()
    assert "verifier 'raises'" in said and "ZeroDivisionError" in said, run.tail()
    assert any("no verdict from verifier 'raises'" in e["message"] for e in run.events("warning"))
    assert not run.metrics()


@pytest.mark.whole
@pytest.mark.usefixtures("plugins")
def test_tasks_that_nobody_solves_end_the_run_and_are_named(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, tmp_path: Path
) -> None:
    run = new_run("unsolved")
    config, *rest = small_run_arguments(run)
    over = with_environment(tmp_path, "unsolvable")
    run.start(config, over, *rest, *SHORT, "--set", "learner.max_wait_seconds=25")
    assert run.wait(400) == 1
    said = run.output.read_text()
    assert "zero_variance (all rewards 0)" in said, run.tail()
    assert any("groups teach nothing" in e["message"] for e in run.events("warning"))
