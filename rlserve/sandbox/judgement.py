"""The sandbox's result for one program and its tests."""

from dataclasses import dataclass

from rlserve.errors import Unavailable
from rlserve.records import Outcome
from rlserve.sandbox.box import Box, End, Ending

KEPT_CHARACTERS = 2000
"""Of each output, in a verdict: enough for a traceback. Any value of this size will do."""


class SandboxFault(Unavailable):
    """The sandbox failed: this is no evidence about the program. Try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How a program did at its tests."""

    outcome: Outcome
    passed: int
    total: int
    """Number of tests, those that were not reached included."""
    reason: str = ""
    """One line for people."""
    output: str = ""
    """What the program printed or raised, truncated and escaped."""


OUTCOMES = {
    Ending.CRASHED: Outcome.CRASH,
    Ending.TIMEOUT: Outcome.TIMEOUT,
    Ending.MEMORY: Outcome.MEMORY,
    Ending.OUTPUT_LIMIT: Outcome.OUTPUT_LIMIT,
}


def outcome_of(end: End) -> Outcome:
    """The outcome of a program that did not exit by itself. Raises SandboxFault when that was the machine's fault."""
    if end.ending in (Ending.LOST, Ending.STARVED):
        raise SandboxFault(f"sandbox: {end.ending.value}: {end.detail}")
    return OUTCOMES.get(end.ending, Outcome.CRASH)


def output_of(box: Box) -> str:
    """The start of standard output and the end of standard error, escaped for people to read."""
    out, err = bytes(box.stdout[:KEPT_CHARACTERS]), bytes(box.stderr[-KEPT_CHARACTERS:])
    return "\n".join(printable(part) for part in (out, err) if part)


def printable(content: bytes) -> str:
    """The text with control characters escaped: raw ones could manipulate a terminal or a log."""
    text = content.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def last_line(box: Box) -> str:
    """The last line of standard error, where Python prints the message of an uncaught exception."""
    lines = printable(bytes(box.stderr)).strip().splitlines()
    return lines[-1][:300] if lines else ""
