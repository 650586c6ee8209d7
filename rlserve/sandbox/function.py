"""Assert files: the program runs in one box and its tests in another; plain values cross between them.

A pass counts only when the tests' box reports it with a secret that no other process has, and then exits normally. The
program can return wrong values, but it cannot claim that they are right.
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
"""When the program ends before its tests, its reaper has this long to report the end, which distinguishes a limit from
an exit. It takes a millisecond; like the wall limit this time leaves out waits for a processor. Any value of this size
will do."""

BUSY_SHARE = 0.25
"""Tests that used less than this share of their CPU limit were waiting when the wall limit struck. Any small value will
do: it must lie above what a box needs to start."""


def judge_function(
    zygote: Zygote, source: str, tests: str, limits: Limits, *, entry_point: str = "", prefix: str = ""
) -> Judgement:
    """Run the tests against the program. ``prefix`` is the task's own code, whose helpers the tests may use.

    Raises SandboxFault when the sandbox fails, InvalidRequest for tests that no program can pass.
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
        # Before the first read: while we hold these ends, neither box would see the other hang up.
        ends.close()
        channel, account = Channel(verdict), time_of([program, tester])
        watch([program, tester], [channel], until_closed=channel, account=account)
        report = _believed(channel, nonce)
        if report.get("outcome") in ("gone", None):
            _wait_for_end(program, tester, account)
        else:
            watch([tester], account=account)
    if not (program.closed and tester.closed):
        raise SandboxFault("sandbox: a box did not end after it was killed")
    return _judge(report, program, tester)


def _judge(report: Mapping[str, Any], program: Box, tester: Box) -> Judgement:
    outcome, reason = report.get("outcome"), str(report.get("reason", ""))
    if outcome == "broken":  # the tests do not compile or assert nothing: the task is at fault, not the program
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
    """The outcome when the tests reported none: a limit reached in the tests' box, or the program's end.

    ``gone``: the tests saw the program hang up. If not, the tests ended first, and the program after them.
    """
    tests = tester.end()
    if not gone and tests.ending in (Ending.TIMEOUT, Ending.MEMORY, Ending.STARVED) and _were_busy(tester, program):
        return outcome_of(tests), f"the tests, working on what the program returned: {tests.detail}"
    if program.status or program.killed:
        end = program.end()
        if end.ending is Ending.EXITED:
            return Outcome.CRASH, last_line(program) or f"the program ended before its tests did ({end.detail})"
        if end.ending is not Ending.STOPPED:
            return outcome_of(end), f"the program {end.detail}"
        if gone:
            return Outcome.REJECTED, "the program closed its connection to the tests and kept running"
    raise SandboxFault(f"sandbox: the tests' box gave no verdict ({tests.ending.value}: {tests.detail})")


def _were_busy(tester: Box, program: Box) -> bool:
    """Whether the tests exceeded a limit by themselves, and not while they waited for the program."""
    tests = tester.end()
    if tester.killed is None:
        return True
    # Both boxes share one account of wall time, so that the one that used more CPU time is the one that was slow.
    theirs = program.end().cpu_seconds if program.status else 0.0
    return tests.cpu_seconds > max(theirs, BUSY_SHARE * tester.limits.cpu_seconds)


def _believed(channel: Channel, nonce: str) -> Mapping[str, Any]:
    """The report, if it is complete and carries the secret; else an empty one."""
    try:
        report = json.loads(bytes(channel.content))
    except ValueError:
        return {}
    if not isinstance(report, dict) or not secrets.compare_digest(str(report.get("nonce")), nonce):
        return {}
    return report


def _wait_for_end(program: Box, tester: Box, account: CountedTime) -> None:
    """Wait until both boxes ended, at most LAST_WORD_SECONDS."""
    until = account.read() + LAST_WORD_SECONDS
    program.may_count = tester.may_count = until
    watch([program, tester], account=account)


def _open(stack: ExitStack, zygote: Zygote, role: str, job: Mapping[str, Any], limits: Limits, links: list[int]) -> Box:
    box = zygote.open(role, job, limits, links=links)
    stack.callback(box.close)
    return box


class _Ends:
    """The pipe ends that belong to the boxes: closed once both boxes have copies, or when something fails before."""

    def __init__(self, stack: ExitStack, descriptors: list[int]) -> None:
        self._descriptors = descriptors
        stack.callback(self.close)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
