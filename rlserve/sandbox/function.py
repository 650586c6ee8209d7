"""Assert files: the program in one box, its tests in another, plain values between them.

A pass is believed only when the tests' own box says so together with a secret that no other process was told, and
that box ended well. The program can return wrong values; it cannot say that they are right.
"""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.processor_time import CountedTime
from rlserve.records import Outcome
from rlserve.sandbox.box import Box, Channel, Ending
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.watch import time_of, watch
from rlserve.sandbox.zygote import Zygote

LAST_WORD_SECONDS = 0.25
"""A program that is gone before its tests has this long to have its end reported: it tells a limit from an exit.
Like the wall limit without what it waits for a processor."""


def judge_function(
    zygote: Zygote, source: str, tests: str, limits: Limits, *, entry_point: str = "", prefix: str = ""
) -> Judgement:
    """Run the tests against the program. ``prefix`` is the task's own code, whose helpers the tests may use.

    Raises SandboxFault when the sandbox fails, InvalidRequest for tests that can pass nobody.
    """
    nonce = secrets.token_hex(16)
    task = {"tests": tests, "prefix": prefix, "entry_point": entry_point, "nonce": nonce}
    with ExitStack() as stack:
        links = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (to_program, from_tests), (to_tests, from_program), (verdict, verdict_end) = links
        ends = _Ends(stack, [to_program, from_tests, to_tests, from_program, verdict_end])
        stack.callback(os.close, verdict)
        program = _open(stack, zygote, "candidate", {"source": source}, limits, [to_program, from_program])
        tester = _open(stack, zygote, "tester", task, limits, [to_tests, from_tests, verdict_end])
        ends.close()
        channel, account = Channel(verdict), time_of([program, tester])
        watch([program, tester], [channel], until_closed=channel, account=account)
        report = _believed(channel, nonce)
        if report.get("outcome") in ("gone", None):
            _wait_for_end(program, tester, account)
        else:
            watch([tester], account=account)
    if not (program.closed and tester.closed):
        raise SandboxFault("sandbox: a box does not end")
    return _judge(report, program, tester)


def _judge(report: Mapping[str, Any], program: Box, tester: Box) -> Judgement:
    outcome, reason = report.get("outcome"), str(report.get("reason", ""))
    if outcome == "broken":
        raise InvalidRequest(f"payload.{reason}")
    if outcome is None or outcome == "gone":
        found, reason = _early_end(program, tester, gone=outcome is not None)
    elif tester.end().exit_code != 0:
        raise SandboxFault(f"sandbox: the tests' box ended badly: {tester.end().detail}")
    else:
        found = {
            "pass": Outcome.PASS,
            "fail": Outcome.FAIL,
            "memory": Outcome.MEMORY,
            "crash": Outcome.CRASH,
            "unsupported": Outcome.REJECTED,
        }[str(outcome)]
    return Judgement(
        outcome=found,
        passed=int(report.get("passed", 0)),
        total=max(1, int(report.get("total", 1))),
        reason=reason,
        output=output_of(program),
    )


def _early_end(program: Box, tester: Box, *, gone: bool) -> tuple[Outcome, str]:
    """Why there is no verdict: a limit that ran out in the tests' box, or the program's end.

    ``gone``: the tests saw the program hang up. If not, they ended first, and the program after them.
    """
    tests = tester.end()
    if not gone and tests.ending in (Ending.TIMEOUT, Ending.MEMORY, Ending.STARVED) and _were_busy(tester, program):
        return outcome_of(tests), f"the tests, with what the program returned: {tests.detail}"
    if program.status or program.killed:
        end = program.end()
        if end.ending is Ending.EXITED:
            return Outcome.CRASH, last_line(program) or f"the program ended before its tests did ({end.detail})"
        if end.ending is not Ending.STOPPED:
            return outcome_of(end), f"the program {end.detail}"
        if gone:
            return Outcome.REJECTED, "the program hung up on its tests and went on"
    raise SandboxFault(f"sandbox: the tests' box gave no verdict ({tests.ending.value}: {tests.detail})")


def _were_busy(tester: Box, program: Box) -> bool:
    """Whether the tests went over a limit by themselves, and not while they waited for the program."""
    tests = tester.end()
    if tester.killed is None:
        return True
    theirs = program.end().cpu_seconds if program.status else 0.0
    return tests.cpu_seconds > max(theirs, 0.25 * tester.limits.cpu_seconds)


def _believed(channel: Channel, nonce: str) -> Mapping[str, Any]:
    """The report, if it is whole and knows the secret; else nothing."""
    try:
        report = json.loads(bytes(channel.content))
    except ValueError:
        return {}
    if not isinstance(report, dict) or not secrets.compare_digest(str(report.get("nonce")), nonce):
        return {}
    return report


def _wait_for_end(program: Box, tester: Box, account: CountedTime) -> None:
    """The end of both, which comes soon or not at all."""
    until = account.read() + LAST_WORD_SECONDS
    program.may_count = tester.may_count = until
    watch([program, tester], account=account)


def _open(stack: ExitStack, zygote: Zygote, role: str, job: Mapping[str, Any], limits: Limits, links: list[int]) -> Box:
    box = zygote.open(role, job, limits, links=links)
    stack.callback(box.close)
    return box


class _Ends:
    """The ends that belong to the boxes: closed here once both have them, or when something fails before."""

    def __init__(self, stack: ExitStack, descriptors: list[int]) -> None:
        self._descriptors = descriptors
        stack.callback(self.close)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
