"""A whole run whose groups are in a Redis server: its faults, and those of the processes around it."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from rlserve.config.paths import RunPaths
from rlserve.store.redis_backend import RedisBackend
from tests.support.counts import check_counts_add_up
from tests.support.processes.redis_server import RedisServer

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

SECRET = "not-in-any-file"


def test_a_run_outlives_redis_and_resumes_with_what_it_kept(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLSERVE_REDIS_PASSWORD", SECRET)
    run = new_run("on-redis")
    with RedisServer("--requirepass", SECRET, "--appendfsync", "always") as server:
        # A policy that stays as it is: one that learns leaves ever fewer groups that teach.
        chosen = {
            "steps": 10,
            "learner.lr": 1e-9,
            "checkpoint.every_steps": 2,
            "launch.learner_restarts": 0,
            "store.type": "redis",
        }
        chosen["store.options.url"] = server.url
        chosen["launch.learner_restarts"] = 0  # the user resumes, once Redis is back
        run.start(
            *small_run_arguments(run), *(word for key, value in chosen.items() for word in ("--set", f"{key}={value}"))
        )
        run.wait_for_step(2)
        server.kill()
        os.kill(run.pid_of("hub"), signal.SIGKILL)
        time.sleep(8.0)  # more than a worker needs to finish what it holds
        server.start()
        run.wait_for_step(run.last_step() + 2)
        said = [event["message"] for event in run.events("warning")]
        assert any(f"{server.url} cannot be reached" in message for message in said), said
        assert any("it is back after" in message for message in said), said
        os.kill(run.pid_of("learner"), signal.SIGKILL)
        assert run.wait(120) == 1
        server.kill()
        server.start()
        run.wait_until_nothing_runs()

        run.start("--resume", str(run.root))
        assert run.wait(400) == 0, run.tail()
        summary = run.summary()
        check_counts_add_up(summary["groups"])
        assert summary["steps"] == 10
        assert run.metrics()[-1]["groups/consumed"] == 10 * run.metrics()[0]["batch/groups"]
        store = RedisBackend(url=server.url).open(RunPaths(run.root))
        assert store.counts().received == summary["groups"]["received"]
        store.close()
        assert not (run.root / "groups.sqlite").exists()
        files = [path for path in run.root.rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        assert SECRET not in run.output.read_text()
