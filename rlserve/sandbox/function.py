"""Assert files: the program in one box, its tests in another, plain values between them.

A pass is believed only when the tests' own box says so together with a secret that no other process was told, and
that box ended well. The program can return wrong values; it cannot say that they are right.
"""

import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.sandbox.box import Box, Channel, Ending, watch
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.zygote import Zygote

LAST_WORD_SECONDS = 0.25
"""A program that is gone before its tests has this long to have its end reported: it tells a limit from an exit."""


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
        channel = Channel(verdict)
        watch([program, tester], [channel], until_closed=channel)
        report = _believed(channel, nonce)
        if report.get("outcome") in ("gone", None):
            _wait_for_end(program, tester)
        else:
            watch([tester])
    if not (program.closed and tester.closed):
        raise SandboxFault("sandbox: a box does not end")
    return _judge(report, program, tester)


def _judge(report: Mapping[str, Any], program: Box, tester: Box) -> Judgement:
    outcome, reason = report.get("outcome"), str(report.get("reason", ""))
    if outcome == "broken":
        raise InvalidRequest(f"payload.{reason}")
    if outcome is None or outcome == "gone":
        found, reason = _early_end(program, tester)
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


def _early_end(program: Box, tester: Box) -> tuple[Outcome, str]:
    """Why there is no verdict: the program's end, or a limit that ran out in the tests' box."""
    end = program.end() if program.status or program.killed else None
    if end is not None and end.ending is not Ending.STOPPED:
        if end.ending is Ending.EXITED:
            return Outcome.CRASH, last_line(program) or f"the program ended before its tests did ({end.detail})"
        return outcome_of(end), f"the program {end.detail}"
    end = tester.end()
    if end.ending in (Ending.TIMEOUT, Ending.MEMORY, Ending.STARVED):
        return outcome_of(end), f"the tests: {end.detail}"
    raise SandboxFault(f"sandbox: the tests' box gave no verdict ({end.ending.value}: {end.detail})")


def _believed(channel: Channel, nonce: str) -> Mapping[str, Any]:
    """The report, if it is whole and knows the secret; else nothing."""
    try:
        report = json.loads(bytes(channel.content))
    except ValueError:
        return {}
    if not isinstance(report, dict) or not secrets.compare_digest(str(report.get("nonce")), nonce):
        return {}
    return report


def _wait_for_end(program: Box, tester: Box) -> None:
    """The end of both, which comes soon or not at all."""
    for box in (program, tester):
        box.last_moment = time.monotonic() + LAST_WORD_SECONDS
    watch([program, tester])


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
