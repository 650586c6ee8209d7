"""No process of an engine outlives the worker that owns it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlserve.engines.vllm.parent_watch import OWNER_VARIABLE, wait_for_end
from tests.support.models.tiny_policies import tiny_model

WORKER = """
import asyncio, sys
if __name__ == "__main__" and "early" in sys.argv:
    from rlserve.engines.vllm.starting.start import fork_early
    fork_early()
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.engines.base import EngineOptions

async def serve():
    await VllmEngine.start(EngineOptions(model_path=sys.argv[1], dtype="float32", max_length=128))
    print("serving", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(serve())
"""


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_the_end_of_a_process_is_seen_also_while_nobody_reaps_it(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    wait_for_end(owner.pid)
    assert psutil.Process(owner.pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_ends_with_its_owner(owner: subprocess.Popen[bytes]) -> None:
    code = (
        "import rlserve.engines.vllm.parent_watch as d, time; d.follow_owner(); print(1, flush=True); time.sleep(600)"
    )
    environment = os.environ | {OWNER_VARIABLE: str(owner.pid)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"1\n"
        assert follower.poll() is None
        owner.kill()
        assert follower.wait(timeout=5) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "fork"),
    [("starting", "late"), pytest.param("starting", "early", marks=pytest.mark.whole), ("serving", "early")],
)
def test_a_killed_worker_leaves_no_process(tmp_path: Path, moment: str, fork: str) -> None:
    tiny_model("qwen3", tied=True).save_pretrained(tmp_path / "model")
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path / "model"), fork]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        try:
            children = _engine_core_appears(worker.pid)
            if moment == "serving":
                assert worker.stdout is not None
                assert worker.stdout.readline() == b"serving\n"
        finally:
            worker.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.slow
def test_the_fork_server_of_a_worker_is_its_fork_and_holds_nothing_of_it(tmp_path: Path) -> None:
    code = (
        "import sys; from multiprocessing import forkserver\n"
        "from rlserve.engines.vllm.starting.start import fork_early\n"
        "mine = open(sys.argv[1], 'w'); fork_early()\n"
        "print(forkserver._forkserver._forkserver_pid, flush=True); sys.stdin.read()"
    )
    mine = str(tmp_path / "mine")
    command = [sys.executable, "-c", code, mine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None and worker.stdin is not None
        server = psutil.Process(int(worker.stdout.readline()))
        assert server.ppid() == worker.pid
        assert mine in [opened.path for opened in psutil.Process(worker.pid).open_files()]
        deadline = time.monotonic() + 10
        while mine in [opened.path for opened in server.open_files()]:
            assert time.monotonic() < deadline, "the fork server keeps its parent's file"
            time.sleep(0.05)
        assert server.cmdline()[0] == "rlserve::ForkServer"
        worker.stdin.close()
        assert worker.wait(timeout=20) == 0
    assert psutil.wait_procs([server], timeout=20)[1] == []


def _engine_core_appears(worker: int) -> list[psutil.Process]:
    """The worker's descendants, once the fork server has a child."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        descendants = psutil.Process(worker).children(recursive=True)
        if any(_is_grandchild(process, worker) for process in descendants):
            return descendants
        time.sleep(0.05)
    raise AssertionError("EngineCore did not appear within 120 s")


def _is_grandchild(process: psutil.Process, worker: int) -> bool:
    try:
        return process.ppid() != worker
    except psutil.NoSuchProcess:  # a start asks short-lived commands about the machine
        return False
