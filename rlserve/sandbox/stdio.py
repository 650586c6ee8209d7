"""stdin/stdout tests: the program gets an input, and what it prints is compared out here.

The expected output never enters a box. Compared are lines without trailing blanks, and blank lines at the end do
not count; every other character does. The exit code must be 0. All tests run, so that the share passed is known;
but the first one that runs into a limit is the last one run, so that a runaway costs one limit and not one a test.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.records import Outcome
from rlserve.sandbox.box import Ending, watch
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.zygote import Zygote

TOTAL_WALL_FACTOR = 3
"""All tests of a program together may take this many times the wall limit of one."""


@dataclass(frozen=True, slots=True)
class StdioTest:
    """What goes in and what must come out."""

    input: str
    output: str


def judge_stdio(zygote: Zygote, source: str, tests: Sequence[StdioTest], limits: Limits) -> Judgement:
    """Run the program once for each test. Raises SandboxFault when the sandbox fails."""
    passed, first_bad = 0, Judgement(outcome=Outcome.PASS, passed=0, total=0)
    deadline = time.monotonic() + TOTAL_WALL_FACTOR * limits.wall_seconds
    for index, test in enumerate(tests):
        if time.monotonic() > deadline:
            reason = f"test {index}: the tests before it took more than {TOTAL_WALL_FACTOR} times the wall limit"
            first_bad = Judgement(outcome=Outcome.TIMEOUT, passed=0, total=1, reason=reason)
            break
        found = _run(zygote, source, test, limits, f"test {index}")
        if found.outcome is Outcome.PASS:
            passed += 1
        elif first_bad.outcome is Outcome.PASS:
            first_bad = found
        if found.outcome in (Outcome.TIMEOUT, Outcome.MEMORY, Outcome.OUTPUT_LIMIT):
            first_bad = found
            break
    return Judgement(
        outcome=first_bad.outcome,
        passed=passed,
        total=len(tests),
        reason=first_bad.reason or f"{passed} tests",
        output=first_bad.output,
    )


def lines_of(text: str) -> list[str]:
    """The lines that are compared."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _run(zygote: Zygote, source: str, test: StdioTest, limits: Limits, name: str) -> Judgement:
    box = zygote.open("program", {"source": source}, limits, test.input.encode("utf-8", "surrogatepass"))
    try:
        watch([box])
    finally:
        gone = box.close()
    if not gone:
        raise SandboxFault(f"sandbox: box {box.pid} does not end")
    end = box.end()
    outcome, reason = Outcome.PASS, ""
    if end.ending is not Ending.EXITED:
        outcome, reason = outcome_of(end), f"{name}: {end.detail}"
    elif end.exit_code:
        outcome, reason = Outcome.CRASH, f"{name}: {last_line(box) or end.detail}"
    elif (why := _difference(bytes(box.stdout), test.output)) is not None:
        outcome, reason = Outcome.FAIL, f"{name}: {why}"
    passed = int(outcome is Outcome.PASS)
    return Judgement(outcome=outcome, passed=passed, total=1, reason=reason, output=output_of(box))


def _difference(printed: bytes, expected: str) -> str | None:
    """Where the outputs differ, without saying what was expected there; None when they do not."""
    try:
        lines = lines_of(printed.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"the output is no UTF-8 (byte {error.start})"
    wanted = lines_of(expected)
    if lines == wanted:
        return None
    line = next((i for i, pair in enumerate(zip(lines, wanted, strict=False)) if pair[0] != pair[1]), None)
    if line is None:
        return f"{len(lines)} lines where {len(wanted)} are wanted"
    return f"line {line + 1} is {lines[line][:80]!a}"
