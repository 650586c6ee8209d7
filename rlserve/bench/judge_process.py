"""A judge of two answers in a process of its own, which is killed when it hangs. Run as a module it is that process.

``ours`` is the math verifier, ``math-verify`` that library as its documentation calls it, without its timers (which
need signals of their own).
"""

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

CPU_SECONDS = 8.0
"""Processor time for one pair, first imports included."""
WALL_SECONDS = 300.0
"""For a process that waits for something that does not come; nothing honest does."""


class JudgeProcess:
    """Asks one judge, pair by pair; starts it again after a kill."""

    def __init__(self, judge: str) -> None:
        self._judge = judge
        self._process: subprocess.Popen[str] | None = None

    def ask(self, gold: str, answer: str) -> None:
        """Give it a pair to judge; ``told`` waits for its word."""
        process = self._running()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died: told finds out
            process.stdin.write(json.dumps([gold, answer]) + "\n")
            process.stdin.flush()

    def told(self) -> str:
        """``equal``, ``different``, ``unread``, ``error ...`` or ``hung``."""
        process = self._running()
        assert process.stdout is not None
        if not self._wait(process):
            self.close()
            return "hung"
        line = process.stdout.readline()
        if not line:
            self.close()
            return "error: died"
        return str(json.loads(line))

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlserve.bench.judge_process", self._judge],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _wait(self, process: subprocess.Popen[str]) -> bool:
        """True when an answer comes before the processor time is used up."""
        assert process.stdout is not None
        try:
            watched = psutil.Process(process.pid)
        except psutil.NoSuchProcess:
            return True  # what it left is read, and then the end
        start, began = _cpu_seconds(watched), time.monotonic()
        while time.monotonic() < began + WALL_SECONDS:
            if select.select([process.stdout], [], [], 0.5)[0]:
                return True
            if _cpu_seconds(watched) - start > CPU_SECONDS:
                return False
        return False


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return float("inf")
    return float(times.user + times.system)


def _ours() -> Callable[[str, str], str]:
    from rlserve import plugins

    verifier = plugins.load(plugins.VERIFIER_GROUP, "math")()

    def ask(gold: str, answer: str) -> str:
        payload = json.dumps({"answer": gold, "bare": True}).encode()
        return "equal" if verifier.verify(answer, payload, "").reward == 1.0 else "different"

    return ask


def _math_verify() -> Callable[[str, str], str]:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.ERROR)  # it warns at each call that its timers are off

    def ask(gold: str, answer: str) -> str:
        sides = [parse(text if "$" in text else f"${text}$", parsing_timeout=None) for text in (gold, answer)]
        if not all(sides):
            return "unread"
        return "equal" if verify(sides[0], sides[1], timeout_seconds=None) else "different"

    return ask


def main() -> None:
    """Answer pairs from standard input until it closes."""
    judge = {"ours": _ours, "math-verify": _math_verify}[sys.argv[1]]()
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            word = judge(gold, answer)
        except Exception as error:
            word = f"error: {type(error).__name__}"
        print(json.dumps(word), flush=True)


if __name__ == "__main__":
    main()
