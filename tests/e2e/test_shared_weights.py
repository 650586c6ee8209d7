"""Whole runs whose weights do not come by the learner's file: it vanishes, or the worker is elsewhere."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.own_directory import PREFIX

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

ELSEWHERE = """
import sys
if "rollout" in sys.argv:
    from rlserve.weight_sync import host
    host.host_id = lambda: "elsewhere"
"""


def remove_published(pid: int) -> int:
    """Remove the weight files that a process has open; returns their number."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            path = os.readlink(link)
            if path.startswith(f"{SHARED_MEMORY}/{PREFIX}") and Path(path).name.startswith("v"):
                os.unlink(path)
                count += 1
    return count


def test_a_run_goes_on_when_its_shared_weights_are_removed(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], list[str]]
) -> None:
    run = new_run("removed")
    run.start(*small_run_arguments(run), "--set", "steps=6")
    log = run.root / "logs" / "learner.log"
    # Its first line, not the file: the launcher opens that before the process exists.
    run.wait_until("a learner", lambda: log.exists() and log.stat().st_size > 0, 120)
    learner, removed, over = run.pid_of("learner"), [0], threading.Event()

    def remove() -> None:
        while not over.wait(0.001):
            with contextlib.suppress(OSError):
                removed[0] += remove_published(learner)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        assert run.wait(600) == 0, run.tail()
    finally:
        over.set()
        thread.join()
    assert removed[0] > 1
    assert "cannot be opened here" in (run.root / "logs" / "rollout-0.log").read_text()
    assert not run.events("actor_died")


def test_a_worker_elsewhere_gets_its_weights_by_broadcast(
    new_run: Callable[[str], Any],
    small_run_arguments: Callable[[Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = new_run("broadcast")
    run.start(*small_run_arguments(run), "--set", "steps=4", "--set", "sync.broadcast_address=127.0.0.1")
    assert run.wait(600) == 0, run.tail()
    run.wait_until_nothing_runs()
    worker = (run.root / "logs" / "rollout-0.log").read_text()
    assert worker.count("came by collective") >= 3, run.tail()
    assert "came by shared_file" not in worker and "asking for full_stream" not in worker
    assert not run.events("actor_died")
