"""``rlserve rollout``: a worker of a run that goes on is looked at, sampled from, paused and resumed."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


def rollout(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rlserve.cli.main", "rollout", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def said(*arguments: str) -> str:
    done = rollout(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stands_still(run: Any, seconds: float = 5.0) -> bool:
    before = run.last_step()
    time.sleep(seconds)
    return bool(run.last_step() == before)


def test_a_worker_is_paused_seen_to_be_and_resumed(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], Sequence[str]]
) -> None:
    run = new_run("control")
    directory = str(run.root)
    assert "there is no directory" in rollout("status", directory).stderr
    run.start(*small_run_arguments(run), "--set", "steps=100000", "--set", "stop_reward=2", "--set", "learner.lr=1e-9")
    run.wait_for_step(1, seconds=400)
    assert "rollout-0: working, version" in said("status", directory)
    text = said("sample", directory, "3+8=", "--text", "-n", "2", "--temperature", "0")
    assert text.count("--- version") == 2
    assert text.count("tokens, stop") + text.count("tokens, length") == 2
    assert (
        "no rollout worker rollout-9 is alive (known: rollout-0)"
        in rollout("pause", directory, "--worker", "rollout-9").stderr
    )

    assert "rollout-0: paused" in said("pause", directory)
    run.wait_until("stillness", lambda: stands_still(run), 200)
    status = subprocess.run(
        [sys.executable, "-m", "rlserve.cli.main", "status", directory], cwd=ROOT, capture_output=True, text=True
    )
    assert "paused yes" in status.stdout
    stopped_at = run.last_step()

    assert "rollout-0: working" in said("resume", directory)
    run.wait_for_step(stopped_at + 2, seconds=400)
