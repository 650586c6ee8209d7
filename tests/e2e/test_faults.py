"""Processes die in the middle of a run, by real signals; the run goes on or can be resumed."""

import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A policy that stays as it is: one that learns leaves ever fewer groups that teach, and a step waits for others.
STEPS = ("--set", "steps=12", "--set", "learner.lr=1e-9")


def check_counts(run: Any) -> None:
    check_counts_add_up(run.summary()["groups"])


def test_a_run_outlives_its_rollout_worker_its_servers_and_its_learner(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    """The learner goes on from its last checkpoint, and the curve never runs back."""
    run = new_run("faults")
    run.start(*small_run_arguments(run), *STEPS, "--set", "checkpoint.every_steps=4")
    run.wait_for_step(2)
    killed = {"verifier-0", "environment-0", "rollout-0", "learner"}
    for actor in killed - {"learner"}:
        os.kill(run.pid_of(actor), signal.SIGKILL)
    run.wait_for_step(6)
    os.kill(run.pid_of("learner"), signal.SIGKILL)
    assert run.wait(400) == 0, run.tail()
    check_counts(run)
    (log,) = re.findall(r"resuming from step (\d+)", (run.root / "logs" / "learner.log").read_text())
    assert int(log) in (4, 8) and [row["step"] for row in run.metrics()] == list(range(1, 13))
    summary = run.summary()
    assert summary["steps"] == 12
    assert {event["actor"] for event in run.events("actor_died")} == killed
    assert {event["actor"] for event in run.events("actor_recovered")} == killed
    assert set(summary["recovery_seconds"]) == killed
    consumed = [row["groups/consumed"] for row in run.metrics()]
    assert consumed == sorted(consumed)
    assert consumed[-1] == 12 * run.metrics()[0]["batch/groups"]
    run.wait_until_nothing_runs()


def test_a_run_resumes_after_a_stop_and_a_killed_launcher_and_leaves_no_orphan(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    """The death of its learner is in ``test_poison_and_stores``."""
    run = new_run("resumed")
    run.start(*small_run_arguments(run), *STEPS, "--set", "checkpoint.every_steps=2")
    run.wait_for_step(3)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    run.wait_until_nothing_runs()

    run.start("--resume", str(run.root))
    run.wait_for_step(run.last_step() + 1)
    run.process.kill()
    run.process.wait()
    run.wait_until_nothing_runs()

    run.start("--resume", str(run.root))
    assert run.wait(400) == 0, run.tail()
    check_counts(run)
    steps = [row["step"] for row in run.metrics()]
    assert steps[-1] == 12
    assert run.metrics()[-1]["groups/consumed"] == 12 * run.metrics()[0]["batch/groups"]
