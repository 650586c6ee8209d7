"""Function-call tests: arguments in, values out, compared out here. No expected value enters the box.

What counts as equal, after a value was rebuilt as plain data:

- numbers (booleans apart) by value; floats, where either side is one, within a relative and absolute 1e-6;
- texts, bytes, booleans and None exactly; a boolean equals only a boolean;
- lists and tuples alike, item by item in order (JSON knows no tuples);
- dictionaries by keys and values; an integer key also equals its text (JSON knows no other keys);
- sets, and a list where the program returned a set, without regard to order.
"""

import json
import math
import os
import random
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rlserve.records import Outcome
from rlserve.sandbox.box import Box, Channel, Ending, watch
from rlserve.sandbox.judgement import Judgement, SandboxFault, last_line, outcome_of, output_of
from rlserve.sandbox.limits import Limits
from rlserve.sandbox.plain import NotPlain, decode_plain, encode_plain
from rlserve.sandbox.zygote import Zygote

TOLERANCE = 1e-6
HEAD = struct.Struct("<I")
MAX_ANSWERS_BYTES = 64 * 2**20


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


def equal(found: Any, wanted: Any) -> bool:
    """Whether two plain values are equal by the rule above. ``wanted`` comes from JSON."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if {type(found), type(wanted)} in ({float}, {int, float}):
        return _close(found, wanted)
    if isinstance(found, list | tuple) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    if isinstance(found, set | frozenset) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(any(equal(item, other) for other in wanted) for item in found)
    if isinstance(found, dict) and isinstance(wanted, dict):
        texts = {_key(key): value for key, value in found.items()}
        same_keys = len(texts) == len(found) and texts.keys() == wanted.keys()
        return same_keys and all(equal(texts[key], wanted[key]) for key in wanted)
    return type(found) is type(wanted) and bool(found == wanted)


def _question(number: int, test: CallTest) -> Mapping[str, Any]:
    return {
        "n": number,
        "op": "call",
        "f": 1,
        "a": [encode_plain(arg) for arg in test.args],
        "k": [[name, encode_plain(value)] for name, value in test.kwargs.items()],
    }


def _close(a: float, b: float) -> bool:
    try:
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
    except OverflowError:
        return False


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, int) and not isinstance(key, bool) else key


def _judge(
    box: Box,
    answers: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    tests: Sequence[CallTest],
    entry_point: str,
) -> Judgement:
    passed, reason = 0, ""
    for index, (number, test) in enumerate(zip(numbers, tests, strict=True), start=1):
        if index >= len(answers) or answers[index].get("n") != number:
            reason = reason or f"test {index - 1}: no answer"
            continue
        why = _why_wrong(answers[index], test)
        passed += not why
        reason = reason or (why and f"test {index - 1}: {why}")
    end = box.end()
    outcome = Outcome.PASS if passed == len(tests) else Outcome.FAIL
    load = answers[0] if answers else {}
    if end.ending is not Ending.EXITED:
        outcome, reason = outcome_of(end), f"the program {end.detail}"
    elif "e" in load:
        outcome, reason = Outcome.CRASH, f"the program does not load: {last_line(box)}"
    elif not isinstance(load.get("v"), dict) or entry_point not in load["v"]:
        outcome, reason = Outcome.CRASH, f"the program does not define {entry_point!r}"
    elif end.exit_code or len(answers) <= len(tests):
        outcome, reason = Outcome.CRASH, last_line(box) or f"the program ended early ({end.detail})"
    if outcome is not Outcome.PASS:
        passed = min(passed, len(tests) - 1)
    return Judgement(outcome=outcome, passed=passed, total=len(tests), reason=reason, output=output_of(box))


def _why_wrong(answer: Mapping[str, Any], test: CallTest) -> str:
    """Empty for a right answer; never says what was expected."""
    if "e" in answer:
        error = answer["e"]
        return f"raised {str(error[0])[:60]}" if isinstance(error, list) and error else "raised"
    if "x" in answer or "v" not in answer:
        return f"a result that cannot cross ({str(answer.get('x'))[:80]})"
    try:
        value = decode_plain(answer["v"])
    except NotPlain as error:
        return f"a result that is no plain value ({error})"
    if not equal(value, test.output):
        return f"returned {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    try:
        return ascii(value)[:80]
    except (ValueError, RecursionError, MemoryError):
        return f"a {type(value).__name__}"


def _frame(message: Mapping[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return HEAD.pack(len(body)) + body


def _frames(content: bytes) -> list[Mapping[str, Any]]:
    """The whole frames at the start of what arrived."""
    found: list[Mapping[str, Any]] = []
    position = 0
    while len(content) >= position + HEAD.size:
        (size,) = HEAD.unpack_from(content, position)
        position += HEAD.size + size
        try:
            message = json.loads(content[position - size : position])
        except (ValueError, RecursionError):
            break
        if not isinstance(message, dict):
            break
        found.append(message)
    return found


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("questions", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
