"""Runs the stages one after another, each in a process with a time limit, and prints what they measured."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.bench.gpu.rows import read_rows
from rlserve.bench.gpu.table import stage_lines
from rlserve.errors import InvalidRequest
from rlserve.launch.gpus import visible_gpus
from rlserve.launch.last_words import last_words

KILL_SECONDS = 3.0
"""Between SIGTERM and SIGKILL of a stage: its files are written already."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage and its share of the time."""

    name: str
    share: float
    """Share of all minutes after which it is cut off. They add up to more than 1: few stages need all of theirs."""


STAGES = (Stage("engine", 0.4), Stage("whole_run", 0.4), Stage("learner", 0.4), Stage("engine_large", 0.6))


def measure(*, out: str, minutes: float = 8.0, only: Sequence[str] = ()) -> dict[str, Any]:
    """All stages, or those in ``only``, within ``minutes``; the rows are files of the directory ``out``."""
    chosen = _chosen(only)
    directory = Path(out)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if not visible_gpus():
        print("no NVIDIA GPU is seen: tiny sizes on the CPU, which rehearse the plan and measure nothing", flush=True)
    deadline = time.monotonic() + 60 * minutes
    ends: dict[str, str] = {}
    for stage in chosen:
        limit = min(60 * minutes * (1.0 if len(chosen) == 1 else stage.share), deadline - time.monotonic())
        ends[stage.name] = _run(stage, directory, limit) if limit > 0 else "not run: the minutes were used up"
        for line in stage_lines(stage.name, ends[stage.name], read_rows(directory, stage.name)):
            print(line, flush=True)
    return ends


def _chosen(only: Sequence[str]) -> list[Stage]:
    names = [stage.name for stage in STAGES]
    if unknown := sorted(set(only) - set(names)):
        raise InvalidRequest(f"--only: {unknown} is not a stage of the gpu bench; stages are {', '.join(names)}")
    return [stage for stage in STAGES if not only or stage.name in only]


def _run(stage: Stage, out: Path, limit: float) -> str:
    """Run one stage; how it ended, in words."""
    log = out / f"{stage.name}.log"
    command = [sys.executable, "-m", "rlserve.bench.gpu.child", stage.name, "--out", str(out)]
    started = time.monotonic()
    with open(log, "wb") as file:
        # A session of its own, so that its engines and actors end with it.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"cut off after {limit:.0f} s; log {log}"
    finally:
        _end(process)
    took = f"{time.monotonic() - started:.0f} s"
    return took if status == 0 else f"failed after {took} ({last_words(log, 0) or f'exit code {status}'}); log {log}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
