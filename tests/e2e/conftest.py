"""Whole runs, as a user starts them: the command line, real processes, real signals."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlserve.observability.metrics import STEP_METRIC

ROOT = Path(__file__).parents[2]


class Run:
    """One ``rlserve run`` and its directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.root = directory / name
        self.output = directory / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[int] = set()

    def start(self, *arguments: str) -> None:
        with open(self.output, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlserve.cli.main", "run", *arguments], stdout=file, stderr=file, cwd=ROOT
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the run did not end in {seconds} s\n{self.tail()}")

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"the run ended before {what}\n{self.tail()}")
            self.pids()
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"no {what} in {seconds} s\n{self.tail()}")
            time.sleep(0.1)

    def wait_for_step(self, step: int, seconds: float = 180) -> None:
        self.wait_until(f"step {step}", lambda: self.last_step() >= step, seconds)

    def last_step(self) -> int:
        rows = self.metrics()
        return int(rows[-1]["step"]) if rows else 0

    def metrics(self) -> list[dict[str, Any]]:
        return [row for row in json_lines(self.root / "metrics.jsonl") if STEP_METRIC in row]

    def measurements(self) -> list[dict[str, Any]]:
        return [row for row in json_lines(self.root / "metrics.jsonl") if "evaluate/problems" in row]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in json_lines(self.root / "events.jsonl") if e["event"] == name]

    def summary(self) -> dict[str, Any]:
        result = json.loads((self.root / "summary.json").read_text())
        assert isinstance(result, dict)
        return result

    def pids(self) -> list[int]:
        """All living processes of the run, grandchildren too, the launcher aside."""
        mark = f"RLSERVE_RUN_DIRECTORY={self.root.resolve()}".encode()
        found = []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if mark in environment:
                    self._sessions.add(os.getsid(process.pid))
                # An engine overwrites its environment with its title; its session tells whose it is.
                if mark in environment or os.getsid(process.pid) in self._sessions:
                    found.append(process.pid)
            except (OSError, psutil.Error):
                continue
        return found

    def pid_of(self, actor: str) -> int:
        for pid in self.pids():
            command = _command_line(pid).split()
            if "--id" in command and command[command.index("--id") + 1] == actor:
                return pid
        pytest.fail(f"{actor} is not running\n{self.tail()}")

    def wait_until_nothing_runs(self, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while self.pids():
            if time.monotonic() > deadline:
                names = [_command_line(pid)[:150] for pid in self.pids()]
                self.kill()
                pytest.fail(f"left behind: {names}")
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pid in self.pids():
            with_suppressed_kill(pid)

    def tail(self) -> str:
        logs = sorted((self.root / "logs").glob("*.log"))
        parts = [f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-12:]) for path in logs]
        return "\n".join([self.output.read_text(errors="replace")[-2000:], *parts])


def _command_line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(ended)"


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    """Makes runs and makes sure that none outlives its test."""
    runs: list[Run] = []

    def make(name: str) -> Run:
        runs.append(Run(tmp_path, name))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()


@pytest.fixture(scope="module")
def new_module_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    """The same for runs that several tests of a module look at."""
    runs: list[Run] = []

    def make(name: str) -> Run:
        runs.append(Run(tmp_path_factory.mktemp("runs"), name))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The quick start itself, once for all tests of all test processes: pretrain, SFT, pipeline GRPO."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each test process has a folder of its own in one that is common
        shared = shared.parent
    run, ended = Run(shared, "quickstart"), shared / "quickstart.ended"
    with open(shared / "quickstart.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes first makes it, and the others wait for it
        if not ended.exists():
            run.start("configs/quickstart.toml", "--set", f"directory={shared}", "--set", "name=quickstart")
            ended.write_text(str(run.wait(900)))
    assert ended.read_text() == "0", run.tail()
    yield run
    run.kill()


@pytest.fixture(scope="session")
def small_run_arguments(quickstart: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], Sequence[str]]:
    """Arguments of a short run from the quick start's start checkpoint."""
    config = tmp_path_factory.mktemp("configs") / "small.toml"
    text = (ROOT / "configs" / "quickstart.toml").read_text()
    kept, skip = [], False
    for line in text.splitlines():
        if line.startswith("["):
            skip = line.strip("[] ").split(".")[0] in ("pretrain", "sft", "model")
        if not skip:
            kept.append(line)
    start = quickstart.root / "start"
    config.write_text("\n".join(kept) + f'\n[model]\npath = "{start}"\nmax_length = {context_of(quickstart)}\n')

    def arguments(run: Run) -> Sequence[str]:
        return (
            str(config),
            "--set",
            f"directory={run.root.parent}",
            "--set",
            f"name={run.root.name}",
            "--set",
            "evaluate.problems=0",
        )

    return arguments


def context_of(run: Run) -> int:
    import tomllib

    config = tomllib.loads((run.root / "config.toml").read_text())
    return int(config["model"]["max_length"])
