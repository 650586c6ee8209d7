"""A busy machine decides how long a verdict takes, never what it is."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from rlserve.processor_time import CountedTime
from rlserve.records import Outcome
from rlserve.sandbox.box import Box, Ending, Pipes
from rlserve.sandbox.calls import CallTest
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.sandbox import Sandbox
from rlserve.sandbox.stdio import StdioTest
from rlserve.sandbox.watch import _enforce
from tests.sandbox.test_assert_forms import FORMS

HUMANEVAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "humaneval.jsonl"
BUSY_A_PROCESSOR = 4
SHORT = Limits(cpu_seconds=2, wall_seconds=0.5)
BURN = "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.3: pass\n"

HALF = BURN.replace("0.3", "0.15")


@contextlib.contextmanager
def busy_machine(count: int) -> Iterator[None]:
    """So many processes that spin."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


@pytest.fixture(scope="module")
def load() -> Iterator[None]:
    with busy_machine(BUSY_A_PROCESSOR * len(os.sched_getaffinity(0))):
        yield


@pytest.mark.usefixtures("load")
def test_a_program_that_waits_for_a_processor_is_in_time(sandbox: Sandbox) -> None:
    found = [
        sandbox.stdio(BURN + "print('ok')", [StdioTest("", "ok")], SHORT),
        sandbox.calls(f"{BURN}def f(x): return x", "f", [CallTest([1], 1)], SHORT),
        # the program and its tests by turns, which wait for each other and both for a processor
        sandbox.function(f"def f(x):\n    exec({HALF!r})\n    return x", f"assert f(1) == 1\n{HALF}assert 1", SHORT),
        sandbox.function("def f(x): return x", f"{BURN}assert f(1) == 1", SHORT),
    ]
    assert [judgement.outcome for judgement in found] == [Outcome.PASS] * 4, found


@pytest.mark.usefixtures("load")
def test_all_tests_of_a_program_are_in_time_together(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=2, wall_seconds=0.7)
    found = sandbox.stdio(BURN.replace("0.3", "0.1") + "print('ok')", [StdioTest("", "ok")] * 9, limits)
    assert (found.outcome, found.passed) == (Outcome.PASS, 9), found


@pytest.mark.usefixtures("load")
def test_a_program_that_sleeps_or_crowds_itself_is_not(sandbox: Sandbox) -> None:
    crowd = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
    for program in ("import time; time.sleep(99)", "import signal; signal.pause()", crowd):
        assert sandbox.stdio(program, [StdioTest("", "")], SHORT).outcome is Outcome.TIMEOUT


@pytest.mark.usefixtures("load")
def test_cpu_time_is_what_a_program_used_and_no_count_of_ticks(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=0.5, wall_seconds=5)
    found = sandbox.stdio(BURN.replace("0.3", "0.35") + "print('ok')", [StdioTest("", "ok")] * 3, limits)
    assert (found.outcome, found.passed) == (Outcome.PASS, 3), found
    found = sandbox.stdio("while True: pass", [StdioTest("", "ok")], limits)
    assert (found.outcome, "s of CPU time" in found.reason) == (Outcome.TIMEOUT, True), found


class _Account:
    """What the kernel would have to say of a machine that gives a box nothing at all."""

    def __init__(self, counted: float, used: float) -> None:
        self.counted_seconds, self.used_seconds, self.is_settled = counted, used, True

    def read(self) -> float:
        return self.counted_seconds


@pytest.mark.parametrize(
    ("counted", "used", "age", "ending"),
    [
        (0.4, 0.1, 1.0, None),
        (0.5, 0.1, 1.0, Ending.TIMEOUT),
        (0.4, 0.1, 7.9, None),
        (0.4, 0.1, 8.0, Ending.STARVED),
        (0.4, 2.5, 8.0, Ending.TIMEOUT),  # its processes kept each other waiting
        (0.5, 0.1, 8.0, Ending.TIMEOUT),
    ],
)
def test_only_a_machine_that_gives_nothing_ends_a_box_without_a_verdict(
    counted: float, used: float, age: float, ending: Ending | None
) -> None:
    process = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(process.pid)
    box = Box(pid=process.pid, pidfd=pidfd, pipes=Pipes(-1, -1, -1, ()), limits=SHORT, started=100.0)
    _enforce([box], cast(CountedTime, _Account(counted, used)), now=100.0 + age)
    os.close(pidfd)
    process.wait()
    assert box.killed is ending


@pytest.mark.whole
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not HUMANEVAL.exists(), reason="humaneval.jsonl is not beside the checkout")
@pytest.mark.parametrize("busy", [0, 10])
def test_every_reference_of_humaneval_passes(sandbox: Sandbox, busy: int) -> None:
    rows = [json.loads(line) for line in HUMANEVAL.read_text().splitlines()]
    with busy_machine(busy):
        for row in rows:
            program = row["prompt"] + row["canonical_solution"]
            tests = f"{row['test']}\ncheck({row['entry_point']})"
            found = sandbox.function(program, tests, Limits(), entry_point=row["entry_point"], prefix=row["prompt"])
            assert found.outcome is Outcome.PASS, (row["task_id"], found)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_no_honest_program_of_three_thousand_ends_differently_under_load(sandbox: Sandbox) -> None:
    programs = [(program, tests) for program, tests, _, _ in FORMS]
    rows = [json.loads(line) for line in HUMANEVAL.read_text().splitlines()] if HUMANEVAL.exists() else []
    for row in rows:
        programs.append((row["prompt"] + row["canonical_solution"], f"{row['test']}\ncheck({row['entry_point']})"))
    with busy_machine(10):
        for number in range(3000):
            program, tests = programs[number % len(programs)]
            found = sandbox.function(program, tests, Limits())
            assert found.outcome is Outcome.PASS, (number, program, found)
