"""Function-call tests: arguments go into the box, return values come out, and the service compares them.

No expected value enters the box; :mod:`rlserve.sandbox.equality` defines when values are equal. A program could shape
its answers to keep the judge busy: the size of an answer is therefore checked against the wanted value before parsing,
and no Python object is built from it.
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
from rlserve.sandbox.walls.plain import NotPlain, decode_plain, encode_plain
from rlserve.sandbox.watch import watch
from rlserve.sandbox.zygote import Zygote

HEAD = struct.Struct("<I")  # as in inside/frames.py
MAX_ANSWERS_BYTES = 64 * 2**20
"""All answers of a program together, which are held in memory. A task's wanted values are at most 7 MiB."""
SPARE_BYTES = 64 * 2**10
"""So that a wrong answer to a small question can be shown. Any value of this size will do."""
SPARE_NODES = 4096
"""The same in items: parsing so many takes about a millisecond."""
GROWTH = 16
"""An answer may be this many times as long as the wanted one, plus the spare. The longest usual form of a right one,
each integer as a tagged fraction, is about twelve times as long."""
MAX_SHOWN_BYTES = 1000
"""Longest answer that is shown in a reason, which itself is cut at 80 characters. Any value of this size will do."""


@dataclass(frozen=True, slots=True)
class CallTest:
    """One call and the value that it must return."""

    args: Sequence[Any]
    output: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def judge_calls(zygote: Zygote, source: str, entry_point: str, tests: Sequence[CallTest], limits: Limits) -> Judgement:
    """Call the function once for each test, in one box. Raises SandboxFault when the sandbox fails."""
    # Random, so that a program cannot answer calls that it was not asked yet, and so replace a later answer.
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
        raise SandboxFault("sandbox: a box did not end after it was killed")
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
            breach = breach or f"test {index - 1}: an answer to no question"
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
        # All answers may be right, and the program then crash: a share of 1.0 would contradict the outcome.
        passed = min(passed, len(tests) - 1)
    return Judgement(outcome=outcome, passed=passed, total=len(tests), reason=reason, output=output_of(box))


def _why_wrong(answer: Mapping[str, Any], test: CallTest, size: int) -> str:
    """The reason why an answer is wrong, without the wanted value; empty for a right answer."""
    if "e" in answer:
        error = answer["e"]
        return f"raised {str(error[0])[:60]}" if isinstance(error, list) and error else "raised"
    if "x" in answer or "v" not in answer:
        return f"returned a value that cannot be transferred ({str(answer.get('x'))[:80]})"
    return "" if equals(answer["v"], test.output) else f"returned {_shown(answer['v'], size)}"


def _shown(data: Any, size: int) -> str:
    if size > MAX_SHOWN_BYTES:
        return f"a value of {size} bytes"
    try:
        return ascii(decode_plain(data))[:80]
    except (NotPlain, ValueError, RecursionError, MemoryError) as error:
        return f"a value that is not plain ({str(error)[:60]})"


def _frame(message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return HEAD.pack(len(body)) + body


def _frames(content: bytes) -> list[bytes]:
    """Split the received bytes into frames without parsing them; an incomplete frame at the end is left out."""
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
    """A frame's message; or the reason why it cannot be a right answer. ``wanted`` is the JSON of the wanted value."""
    # A count of separators bounds the objects that parsing would make, at the price of a scan.
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
