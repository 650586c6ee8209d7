"""The start of an engine ends by progress: a real process that stands still in the place of vLLM's."""

import asyncio
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from rlserve.engines.base import EngineOptions
from rlserve.engines.vllm.starting import progress
from rlserve.engines.vllm.starting.titles import doing_of
from rlserve.errors import DeadlineExceeded

TITLED = """
import logging, sys, setproctitle
setproctitle.setproctitle("VLLM::EngineCore")
logger = logging.getLogger("vllm")
logger.setLevel(logging.WARNING)
from rlserve.engines.vllm.starting.titles import show_phases
show_phases()
for line in sys.stdin:
    logger.info(line.strip() + " %s", "x")
    print("ok", logger.level, flush=True)
"""


def options(stall_seconds: float, said: list[str]) -> EngineOptions:
    return EngineOptions(model_path="m", dtype="float32", max_length=8, stall_seconds=stall_seconds, report=said.append)


async def test_a_start_that_stands_still_is_ended_with_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def launch(_: Any, **others: Any) -> Any:
        assert others == {"max_logprobs": 3}
        begun.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))
        begun[0].wait()
        raise RuntimeError("EngineCore died")

    monkeypatch.setattr(progress, "launch", launch)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"vLLM's start stands still \(it loads the model\).* for 2 s"):
        await progress.launched(options(2.0, []), max_logprobs=3)
    assert begun[0].wait(10) < 0 and time.monotonic() - started < 60


async def test_a_start_that_computes_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(_: Any, **others: Any) -> str:
        # Longer than the limit: all that time a process computes.
        command = [sys.executable, "-c", "import time; t = time.monotonic()\nwhile time.monotonic() < t + 4: pass"]
        subprocess.run(command, check=True)
        return "llm"

    monkeypatch.setattr(progress, "launch", launch)
    assert await asyncio.wait_for(progress.launched(options(2.0, [])), 120) == "llm"


async def test_what_vllm_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(_: Any, **others: Any) -> Any:
        raise ValueError("no such model")

    monkeypatch.setattr(progress, "launch", launch)
    with pytest.raises(ValueError, match="no such model"):
        await progress.launched(options(60.0, []))


def test_a_process_of_vllms_says_what_it_does_in_its_title() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TITLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdin and process.stdout
        seen = []
        for message in (
            "Starting to load model m",
            "something else",
            "Available KV cache memory: 3",
            "init engine (p)",
        ):
            process.stdin.write(message + "\n")
            answer = process.stdout.readline()
            seen.append(doing_of([psutil.Process(process.pid)]))
        assert seen == ["loads the weights", "loads the weights", "captures CUDA graphs", ""]
        assert answer == "ok 30\n"  # vLLM's own level again
        assert " ".join(psutil.Process(process.pid).cmdline()).strip() == "VLLM::EngineCore"
    finally:
        process.kill()
        process.wait()
