"""What the sandbox says of one program and its tests."""

from dataclasses import dataclass

from rlserve.errors import Unavailable
from rlserve.records import Outcome
from rlserve.sandbox.box import Box, End, Ending

KEPT_CHARACTERS = 2000


class SandboxFault(Unavailable):
    """The sandbox's own trouble: nothing is known of the program. Try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How a program did at its tests."""

    outcome: Outcome
    passed: int
    total: int
    """Tests; all of them, also those that were not reached."""
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
    """The outcome that a bad end means. Raises SandboxFault when it says nothing of the program."""
    if end.ending in (Ending.LOST, Ending.STARVED):
        raise SandboxFault(f"sandbox: {end.ending.value}: {end.detail}")
    return OUTCOMES.get(end.ending, Outcome.CRASH)


def output_of(box: Box) -> str:
    """The start of standard output and the end of standard error, for people to read."""
    out, err = bytes(box.stdout[:KEPT_CHARACTERS]), bytes(box.stderr[-KEPT_CHARACTERS:])
    return "\n".join(printable(part) for part in (out, err) if part)


def printable(content: bytes) -> str:
    """Text without control characters, which could play tricks on a terminal or a log."""
    text = content.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def last_line(box: Box) -> str:
    """The last line of standard error: what an uncaught exception says."""
    lines = printable(bytes(box.stderr)).strip().splitlines()
    return lines[-1][:300] if lines else ""
