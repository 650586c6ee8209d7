"""The error that ended a process, from its log: the exception and where it was raised."""

import os
import re
from pathlib import Path

TAIL_BYTES = 65536
"""Read from the end of the log: more than any traceback."""
MAX_LINES = 6  # an error's last lines; the whole log is named beside them
MAX_CHARACTERS = 1200
"""Of the message, in a terminal beside other lines; the log has the rest."""
_LOGGED = re.compile(r"^\d\d:\d\d:\d\d \S+ [A-Z]+ \S+: ")
_ERROR = re.compile(r"^\d\d:\d\d:\d\d (?P<actor>\S+) (ERROR|CRITICAL) \S+: (?P<said>.*)")
# vLLM puts the process in front of each line that its engine core writes, then its own format of a record.
_PREFIXES = re.compile(r"^(\([^)]*pid=\d+\)\s?)?((ERROR|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d \[[^]]*\] ?)?")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^[\w.]*[A-Z]\w*(:|$)")


def last_words(log: Path, since: int = 0) -> str:
    """The last error in ``log`` after byte ``since``, or its last lines; empty for an empty log."""
    lines = _tail(log, since)
    # Backwards: the last error ended the process; earlier ones were survived.
    for index in range(len(lines) - 1, -1, -1):
        if found := _ERROR.match(lines[index]):
            said = found["said"].removeprefix(f"{found['actor']}: ")
            return _cut([said, *_message(lines[index + 1 :])])
        if _EXCEPTION.match(lines[index]) and (place := _raised_at(lines[:index])) is not None:
            return _cut([lines[index] + place, *_message(lines[index + 1 :])])
    return _cut([line for line in lines if line.strip()][-3:])


def _tail(log: Path, since: int) -> list[str]:
    try:
        with open(log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            # A log that was cut meanwhile may end before ``since``.
            file.seek(max(min(since, end), end - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [_PREFIXES.sub("", line) for line in text.splitlines()]


def _raised_at(before: list[str]) -> str | None:
    """The place of the innermost frame that ends right before an exception's line; None when no traceback does."""
    # Between the last frame and the exception stand its source and, since Python 3.11, carets under it; more lines than
    # that belong to something else.
    for line in reversed(before[-4:]):
        if found := _FRAME.match(line):
            return f" ({found['file']}:{found['line']})"
        if not line.startswith(" "):
            return None
    return None


def _message(behind: list[str]) -> list[str]:
    """Lines that belong to the message before them."""
    taken: list[str] = []
    for line in behind[: MAX_LINES - 1]:
        if _LOGGED.match(line) or line.startswith(_TRACEBACK) or not line.strip():
            break
        taken.append(line)
    return taken


def _cut(lines: list[str]) -> str:
    text = "\n".join(lines).strip()
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ..."
