"""The events of a run (phases, deaths, recoveries) as JSON lines, which several processes append."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_FIELD = 32768
"""Characters of one text in an event. Any value of this size will do: it holds the log's last lines of an actor that
died, and keeps the report of a run readable."""


class EventLog:
    """Appends events to one file, from any number of processes.

    For example::

        events = EventLog(paths.events)
        events.write("phase", name="training")     # raises OSError when the disk is full
        events.note("actor_restarted", actor="rollout-1", seconds=4.2)   # does not
        # events.jsonl: {"unix_seconds": 1700000000.0, "event": "phase", "name": "training"} ...
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Record ``event`` with the current time."""
        bounded = {name: _cut(value) for name, value in fields.items()}
        line = json.dumps({"unix_seconds": time.time(), "event": event, **bounded}) + "\n"
        # O_APPEND and a single write: the kernel then puts lines of several processes one behind the other, unmixed.
        # The file is opened for each event, so that a new file at this path (a copied or cleaned run) is found.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def note(self, event: str, **fields: Any) -> None:
        """Record ``event``, or skip it when the disk refuses: for callers whose own work or error matters more."""
        with contextlib.suppress(OSError):
            self.write(event, **fields)


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_FIELD:
        return f"{value[:MAX_FIELD]}... ({len(value)} characters)"
    return value


def read_json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON-lines file; an incomplete line, which a killed writer leaves, is skipped."""
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
    """Wall seconds of each phase: from its "phase" event to the next one, of the last phase until ``end``."""
    marks = [(str(e["name"]), float(e["unix_seconds"])) for e in events if e.get("event") == "phase"]
    seconds: dict[str, float] = {}
    for (name, start), (_, stop) in zip(marks, [*marks[1:], ("", end)], strict=True):
        seconds[name] = seconds.get(name, 0.0) + stop - start
    return seconds
