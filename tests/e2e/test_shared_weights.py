"""The learner's weight files vanish from shared memory while a run goes on."""

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
