"""stdin/stdout tests: the program gets an input, and the service compares what it prints with the expected output.

The expected output never enters a box; :mod:`rlserve.sandbox.printed` defines when outputs are equal. The exit code
must be 0. The output limit of the program is its own limit plus what the expected output needs. All tests run, so that
the share of passed tests is known, except after a test that exceeds a limit: a runaway program thus costs one limit,
not one for each test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlserve.records import Outcome
from rlserve.sandbox.box import Ending
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.printed import difference
from rlserve.sandbox.watch import watch
from rlserve.sandbox.zygote import Zygote

TOTAL_WALL_FACTOR = 3
"""All tests of a program together may take this many times the wall limit of one, counted in the same way. Any small
value will do: it bounds what a program of many slow tests costs the programs behind it."""
OUTPUT_GROWTH = 2
"""The expected output counts this many times in the output limit: a program may print numbers with more digits."""


@dataclass(frozen=True, slots=True)
class StdioTest:
    """One input and the output that the program must print for it."""

    input: str
    output: str


def judge_stdio(zygote: Zygote, source: str, tests: Sequence[StdioTest], limits: Limits) -> Judgement:
    """Run the program once for each test. Raises SandboxFault when the sandbox fails."""
    passed, first_bad, spent = 0, Judgement(outcome=Outcome.PASS, passed=0, total=0), 0.0
    for index, test in enumerate(tests):
        if spent > TOTAL_WALL_FACTOR * limits.wall_seconds:
            reason = f"test {index}: earlier tests together took more than {TOTAL_WALL_FACTOR} times the wall limit"
            first_bad = Judgement(outcome=Outcome.TIMEOUT, passed=0, total=1, reason=reason)
            break
        found, seconds = _run(zygote, source, test, limits, f"test {index}")
        spent += seconds
        if found.outcome is Outcome.PASS:
            passed += 1
        elif first_bad.outcome is Outcome.PASS:
            first_bad = found
        # A limit outranks an earlier wrong answer: the program was not seen on the tests behind it.
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


def _run(zygote: Zygote, source: str, test: StdioTest, limits: Limits, name: str) -> tuple[Judgement, float]:
    """Judge one test: the judgement, and its share of the time that all tests have together."""
    expected_bytes = len(test.output.encode("utf-8", "replace"))
    limits = replace(limits, output_bytes=limits.output_bytes + OUTPUT_GROWTH * expected_bytes)
    box = zygote.open("program", {"source": source}, limits, test.input.encode("utf-8", "surrogatepass"))
    try:
        watch([box])
    finally:
        gone = box.close()
    if not gone:
        raise SandboxFault(f"sandbox: box {box.pid} did not end after it was killed")
    end = box.end()
    outcome, reason = Outcome.PASS, ""
    if end.ending is not Ending.EXITED:
        outcome, reason = outcome_of(end), f"{name}: {end.detail}"
    elif end.exit_code:
        outcome, reason = Outcome.CRASH, f"{name}: {last_line(box) or end.detail}"
    elif (why := difference(bytes(box.stdout), test.output)) is not None:
        outcome, reason = Outcome.FAIL, f"{name}: {why}"
    passed = int(outcome is Outcome.PASS)
    judgement = Judgement(outcome=outcome, passed=passed, total=1, reason=reason, output=output_of(box))
    # A box that ended before the first reading has no counted time; its CPU time is exact.
    return judgement, max(box.counted_seconds, end.cpu_seconds)
