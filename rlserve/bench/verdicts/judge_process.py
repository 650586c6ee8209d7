"""A judge of two answers in a process of its own, which is killed when it hangs. Run as a module, it is that process.

The judge ``ours`` is the math verifier; ``math-verify`` is that library, called as its documentation shows, without its
timers (which use signals of the main thread).
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
"""Processor time for one pair, including the imports before the first. Any value of this size will do: a usual pair
takes milliseconds, and one that takes this long would hold up a training run."""
WALL_SECONDS = 300.0
"""Limit for a process that sleeps, which uses no processor time. Any value will do that a busy machine does not
reach."""
POLL_SECONDS = 0.5
"""Between readings of the processor time. Any value of this size will do: an answer ends the wait at once."""


class JudgeProcess:
    """Asks one judge, pair by pair, and starts it again after a kill.

    For example::

        judge = JudgeProcess("math-verify")
        judge.ask("1/2", "0.5")
        judge.verdict()             # "equal"
        judge.ask(gold, answer)     # a pair on which the judge computes without end
        judge.verdict()             # "hung": the process was killed, and the next ask starts another
        judge.close()
    """

    def __init__(self, judge: str) -> None:
        self._judge = judge
        self._process: subprocess.Popen[str] | None = None

    def ask(self, gold: str, answer: str) -> None:
        """Send a pair; ``verdict`` waits for the verdict."""
        process = self._running()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # the process died, and verdict() reports it
            process.stdin.write(json.dumps([gold, answer]) + "\n")
            process.stdin.flush()

    def verdict(self) -> str:
        """Wait for the verdict: ``equal``, ``different``, ``unread``, ``error ...`` or ``hung``."""
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
        """Kill the process, if one runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlserve.bench.verdicts.judge_process", self._judge],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._process

    def _wait(self, process: subprocess.Popen[str]) -> bool:
        """True when an answer arrives within the limits."""
        assert process.stdout is not None
        try:
            watched = psutil.Process(process.pid)
        except psutil.NoSuchProcess:
            return True  # the pipe still holds what the process wrote, then its end
        start, began = _cpu_seconds(watched), time.monotonic()
        while time.monotonic() < began + WALL_SECONDS:
            if select.select([process.stdout], [], [], POLL_SECONDS)[0]:
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

    logging.disable(logging.ERROR)  # math-verify logs a warning at each call without timers

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
