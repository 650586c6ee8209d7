"""Rollout workers join and leave a run that goes on, by hand and by what is measured."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.whole, pytest.mark.slow, pytest.mark.timeout(900)]
# A policy that stays as it is: one that learns leaves ever fewer groups that teach, and a step waits for others.
STILL = ("learner.lr=1e-9", "rollout.workers=1")


def scale(run: Any, *counts: str) -> str:
    command = [sys.executable, "-m", "rlserve.cli.main", "scale", str(run.root), *counts]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout


def options(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


def groups_of(run: Any, worker: str) -> bool:
    return any(e["worker"] == worker for e in run.events("worker_joined"))


def test_a_worker_that_joins_works_and_one_that_leaves_gives_its_groups_to_the_others(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    """0 groups are lost or trained on twice, and whoever leaves does so within its grace."""
    run = new_run("scaled")
    run.start(*small_run_arguments(run), *options(*STILL, "steps=400"))
    run.wait_for_step(2, 400)
    assert scale(run, "rollout=2", "verifier=2") == "rollout: 1 -> 2\nverifier: 1 -> 2\n"
    run.wait_until("the second worker", lambda: groups_of(run, "rollout-1"), 200)
    run.wait_for_step(run.last_step() + 2, 200)
    assert scale(run, "rollout=1") == "rollout: 2 -> 1\n"
    run.wait_for_step(run.last_step() + 2, 200)
    assert not run.events("actor_killed") and not run.events("actor_died")
    steps = run.last_step() + 3
    subprocess.run(
        [sys.executable, "-m", "rlserve.cli.main", "set", str(run.root), f"steps={steps}"], check=True, timeout=100
    )
    assert run.wait(300) == 0, run.tail()
    summary = run.summary()
    check_counts_add_up(summary["groups"])
    assert summary["groups"]["consumed"] == summary["steps"] * run.metrics()[0]["batch/groups"]
    assert [row["step"] for row in run.metrics()] == list(range(1, summary["steps"] + 1))
    run.wait_until_nothing_runs()


def test_a_learner_that_waits_gets_a_worker_more(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    run = new_run("automatic")
    # Two groups in flight are too few for this learner, which then waits.
    sets = (*STILL, "steps=400", "launch.scale.rollout.max=2", "rollout.max_groups_in_flight=2")
    run.start(*small_run_arguments(run), *options(*sets))
    run.wait_until("a second worker", lambda: bool(run.events("scaled")), 500)
    (event,) = run.events("scaled")
    assert (event["pool"], event["before"], event["now"]) == ("rollout", 1, 2)
    assert event["why"] == "measured: more" and not event["problem"]
    run.process.terminate()
    assert run.wait(100) == 130
    run.wait_until_nothing_runs()
