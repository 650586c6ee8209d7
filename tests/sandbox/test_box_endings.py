"""How an end is told from another: by what the reaper reports and by who ended the box."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rlserve.sandbox.box import Box, Ending, Pipes, cpu_seconds_below
from rlserve.sandbox.judgement import SandboxFault, outcome_of
from rlserve.sandbox.limits import Limits

LIMITS = Limits(cpu_seconds=2, wall_seconds=4, memory_bytes=2**28)


def ended(
    status: int,
    *,
    cpu: float = 0.1,
    peak: int = 2**24,
    killed: Ending | None = None,
    waited: float = 0.0,
    used: float = 0.0,
) -> Ending:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS, killed=killed)
    box.waited_seconds, box.used_seconds = waited, used
    box.status += json.dumps({"status": status, "cpu_seconds": cpu, "peak_bytes": peak}).encode()
    return box.end().ending


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({"status": 0}, Ending.EXITED),
        ({"status": 3 << 8}, Ending.EXITED),
        ({"status": signal.SIGSEGV}, Ending.CRASHED),
        ({"status": signal.SIGKILL, "cpu": 0.2}, Ending.CRASHED),  # by its own hand
        ({"status": signal.SIGKILL, "cpu": 1.99}, Ending.TIMEOUT),
        ({"status": signal.SIGKILL, "cpu": 1.85}, Ending.TIMEOUT),  # the kernel counts in ticks
        ({"status": signal.SIGXCPU, "cpu": 2.01}, Ending.TIMEOUT),
        ({"status": signal.SIGKILL, "peak": 2**28}, Ending.MEMORY),
        ({"status": 86 << 8}, Ending.MEMORY),
        ({"status": signal.SIGKILL, "killed": Ending.OUTPUT_LIMIT}, Ending.OUTPUT_LIMIT),
        ({"status": signal.SIGKILL, "killed": Ending.STOPPED}, Ending.STOPPED),
        ({"status": signal.SIGKILL, "killed": Ending.TIMEOUT}, Ending.TIMEOUT),  # it slept
        ({"status": signal.SIGKILL, "killed": Ending.TIMEOUT, "cpu": 1.5, "waited": 2.5}, Ending.TIMEOUT),
        ({"status": signal.SIGKILL, "killed": Ending.TIMEOUT, "cpu": 0.4, "waited": 3.5}, Ending.STARVED),
        # Its own children took the core.
        ({"status": 9, "killed": Ending.TIMEOUT, "cpu": 0.4, "waited": 3.5, "used": 6.0}, Ending.TIMEOUT),
    ],
)
def test_each_end_is_told_from_the_others(fields: dict[str, object], ending: Ending) -> None:
    assert ended(**fields) is ending  # type: ignore[arg-type]


@pytest.mark.parametrize(("killed", "ending"), [(None, Ending.LOST), (Ending.TIMEOUT, Ending.TIMEOUT)])
def test_an_end_without_a_report_is_lost_unless_we_ended_it(killed: Ending | None, ending: Ending) -> None:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS, killed=killed)
    assert box.end().ending is ending


def test_the_time_of_all_processes_of_a_box_is_counted() -> None:
    spin = "while True: pass"
    code = f"import os, threading\nif os.fork() == 0:\n    {spin}\nthreading.Thread(target=os.fork).start()\n{spin}"
    with subprocess.Popen(
        [sys.executable, "-c", f"import os\nif os.fork():\n    os.wait()\nelse:\n    exec({code!r})"]
    ) as top:
        try:
            deadline = time.monotonic() + 30
            while cpu_seconds_below(top.pid) < 0.5:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert psutil.Process(top.pid).cpu_times().user < 0.4, "none of it is its own"
        finally:
            for process in [*psutil.Process(top.pid).children(recursive=True), psutil.Process(top.pid)]:
                process.kill()
    assert cpu_seconds_below(top.pid) == 0


@pytest.mark.parametrize("status", ["", "{}", "x", '{"status": "0"}', '{"error": "no room"}'])
def test_a_reaper_that_says_nothing_sensible_is_a_fault_and_no_judgement(status: str) -> None:
    box = Box(pid=0, pidfd=-1, pipes=Pipes(-1, -1, -1, ()), limits=LIMITS)
    box.status += status.encode()
    with pytest.raises(SandboxFault, match="lost"):
        outcome_of(box.end())
