"""What happened when, as JSON lines: phases, deaths, recoveries. Appended by several processes."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_FIELD = 32768
"""Characters of one text in an event."""


class EventLog:
    """Appends whole lines to one file; a line of one write is never torn."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Record ``event`` with the present time."""
        bounded = {name: _cut(value) for name, value in fields.items()}
        line = json.dumps({"unix_seconds": time.time(), "event": event, **bounded}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def note(self, event: str, **fields: Any) -> None:
        """The same for those whose own work, or whose error, matters more than a line that the disk has no room for."""
        with contextlib.suppress(OSError):
            self.write(event, **fields)


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_FIELD:
        return f"{value[:MAX_FIELD]}... ({len(value)} characters)"
    return value


def read_json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON-lines file; a torn last line (a killed writer) is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def phase_seconds(events: Iterator[Mapping[str, Any]], end: float) -> dict[str, float]:
    """Wall seconds of each phase: from its "phase" event to the next one's, the last one until ``end``."""
    marks = [(str(e["name"]), float(e["unix_seconds"])) for e in events if e.get("event") == "phase"]
    seconds: dict[str, float] = {}
    for (name, start), (_, stop) in zip(marks, [*marks[1:], ("", end)], strict=True):
        seconds[name] = seconds.get(name, 0.0) + stop - start
    return seconds
