"""Child processes: stopped with grace, killed with their children, described when they die."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from rlserve.launch.plan import ProcessSpec
from rlserve.launch.process import Child, describe_exit


def spec(code: str) -> ProcessSpec:
    return ProcessSpec(name="child-0", kind="rollout", command=(sys.executable, "-c", code))


async def started(code: str, log: Path) -> Child:
    child = await Child.start(spec(code), log, {"RLSERVE_TEST": "seen"})
    deadline = time.monotonic() + 20
    while "ready" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return child


async def test_stop_lets_a_child_clean_up(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('cleaned'), sys.exit(0)))\n"
        "print('ready', os.environ['RLSERVE_TEST'], flush=True)\n"
        "time.sleep(60)"
    )
    child = await started(code, log)
    await child.stop(10)
    assert await child.wait() == 0
    assert log.read_text().splitlines() == ["ready seen", "cleaned"]


async def test_stop_kills_what_ignores_it_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', grandchild.pid, flush=True)\n"
        "time.sleep(60)"
    )
    child = await started(code, log)
    grandchild = int(log.read_text().split()[1])
    await child.stop(0.2)
    assert await child.wait() == -signal.SIGKILL
    for _ in range(200):
        try:
            if psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.01)
    os.kill(grandchild, signal.SIGKILL)
    pytest.fail("the grandchild outlived its group")


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")],
)
def test_an_exit_is_described_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words
