"""Function-call tests: arguments in, values out, compared out here. No expected value enters the box.

What counts as equal: see :mod:`rlserve.sandbox.equality`. The answers of a program are data that it could shape to
keep its judge busy; so their size is bounded by what the test wants before they are parsed, and no value is built from
them.
"""

import json
import os
import random
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rlserve.records import Outcome
from rlserve.sandbox.box import Box, Channel, Ending
from rlserve.sandbox.equality import equals
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.plain import NotPlain, decode_plain, encode_plain
from rlserve.sandbox.watch import watch
from rlserve.sandbox.zygote import Zygote

HEAD = struct.Struct("<I")
MAX_ANSWERS_BYTES = 64 * 2**20
SPARE_BYTES = 64 * 2**10
SPARE_NODES = 4096
GROWTH = 16
"""An answer may be this many times as long as the one that is wanted, and something more: never the right one is."""
MAX_SHOWN_BYTES = 1000


@dataclass(frozen=True, slots=True)
class CallTest:
    """One call and what it must return."""

    args: Sequence[Any]
    output: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def judge_calls(zygote: Zygote, source: str, entry_point: str, tests: Sequence[CallTest], limits: Limits) -> Judgement:
    """Call the function once for each test, in one box. Raises SandboxFault when the sandbox fails."""
    numbers = [random.SystemRandom().getrandbits(63) for _ in tests]
    questions: list[Mapping[str, Any]] = [{"n": 0, "op": "load", "names": [entry_point]}]
    questions += [_question(number, test) for number, test in zip(numbers, tests, strict=True)]
    with ExitStack() as stack:
        answers, answers_end = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, answers)
        asked = _in_memory(b"".join(_frame(question) for question in questions))
        try:
            box = zygote.open("candidate", {"source": source}, limits, links=[asked, answers_end])
        finally:
            os.close(asked)
            os.close(answers_end)
        stack.callback(box.close)
        channel = Channel(answers, max_bytes=MAX_ANSWERS_BYTES)
        watch([box], [channel])
    if not box.closed:
        raise SandboxFault("sandbox: a box does not end")
    return _judge(box, _frames(bytes(channel.content)), numbers, tests, entry_point)


def _question(number: int, test: CallTest) -> Mapping[str, Any]:
    return {
        "n": number,
        "op": "call",
        "f": 1,
        "a": [encode_plain(arg) for arg in test.args],
        "k": [[name, encode_plain(value)] for name, value in test.kwargs.items()],
    }


def _judge(
    box: Box, frames: Sequence[bytes], numbers: Sequence[int], tests: Sequence[CallTest], name: str
) -> Judgement:
    passed, reason, breach = 0, "", ""
    for index, (number, test) in enumerate(zip(numbers, tests, strict=True), start=1):
        if index >= len(frames):
            reason = reason or f"test {index - 1}: no answer"
            break
        answer = _parsed(frames[index], json.dumps(test.output))
        if isinstance(answer, str):
            reason = reason or f"test {index - 1}: {answer}"
        elif answer.get("n") != number:
            breach = breach or f"test {index - 1}: an answer that nobody asked for"
        else:
            why = _why_wrong(answer, test, len(frames[index]))
            passed += not why
            reason = reason or (why and f"test {index - 1}: {why}")
    end = box.end()
    outcome = Outcome.PASS if passed == len(tests) else Outcome.FAIL
    load = _parsed(frames[0], name) if frames else {}
    load = load if isinstance(load, dict) else {}
    if end.ending is not Ending.EXITED:
        outcome, reason = outcome_of(end), f"the program {end.detail}"
    elif breach:
        outcome, reason = Outcome.REJECTED, breach
    elif "e" in load:
        outcome, reason = Outcome.CRASH, f"the program does not load: {last_line(box)}"
    elif not isinstance(load.get("v"), dict) or name not in load["v"]:
        outcome, reason = Outcome.CRASH, f"the program does not define {name!r}"
    elif end.exit_code or len(frames) <= len(tests):
        outcome, reason = Outcome.CRASH, last_line(box) or f"the program ended early ({end.detail})"
    if outcome is not Outcome.PASS:
        passed = min(passed, len(tests) - 1)
    return Judgement(outcome=outcome, passed=passed, total=len(tests), reason=reason, output=output_of(box))


def _why_wrong(answer: Mapping[str, Any], test: CallTest, size: int) -> str:
    """Empty for a right answer; never says what was expected."""
    if "e" in answer:
        error = answer["e"]
        return f"raised {str(error[0])[:60]}" if isinstance(error, list) and error else "raised"
    if "x" in answer or "v" not in answer:
        return f"a result that cannot cross ({str(answer.get('x'))[:80]})"
    return "" if equals(answer["v"], test.output) else f"returned {_shown(answer['v'], size)}"


def _shown(data: Any, size: int) -> str:
    if size > MAX_SHOWN_BYTES:
        return f"a value of {size} bytes"
    try:
        return ascii(decode_plain(data))[:80]
    except (NotPlain, ValueError, RecursionError, MemoryError) as error:
        return f"a result that is no plain value ({str(error)[:60]})"


def _frame(message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return HEAD.pack(len(body)) + body


def _frames(content: bytes) -> list[bytes]:
    """The whole frames at the start of what arrived, not looked into."""
    found: list[bytes] = []
    position = 0
    while len(content) >= position + HEAD.size:
        (size,) = HEAD.unpack_from(content, position)
        position += HEAD.size + size
        if len(content) < position:
            break
        found.append(content[position - size : position])
    return found


def _parsed(frame: bytes, wanted: str) -> dict[str, Any] | str:
    """A frame's message; or why it cannot be the answer, in words. ``wanted`` is the JSON of what could be right."""
    nodes = sum(map(frame.count, (b",", b"[", b"{")))
    most = SPARE_NODES + GROWTH * (wanted.count(",") + wanted.count("[") + wanted.count("{"))
    if len(frame) > SPARE_BYTES + GROWTH * len(wanted) or nodes > most:
        return f"returned a value of {len(frame)} bytes"
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return "an answer that cannot be read"
    return message if isinstance(message, dict) else "an answer that cannot be read"


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("questions", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
