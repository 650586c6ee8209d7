"""Shows a run in the terminal: updates its progress from new lines of its metrics and events."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rlserve.config.paths import RunPaths
from rlserve.console.progress import Progress, minutes
from rlserve.observability.outcome import measured_line

POLL_SECONDS = 0.3
"""Fast enough to look live; reading two files costs nothing beside a step."""


class Console:
    """Shows a run on ``out``: a :class:`rlserve.launch.run.Display`."""

    def __init__(self, name: str, out: TextIO, *, leave_out: Collection[str] = ()) -> None:
        """Events named in ``leave_out`` are not shown."""
        self._name = name
        self._out = out
        self._leave_out = leave_out
        self._progress: Progress | None = None

    @contextlib.asynccontextmanager
    async def following(self, paths: RunPaths, *, step: int) -> AsyncIterator[None]:
        with Progress(self._name, self._out) as self._progress:
            self._progress.state.step = step
            task = asyncio.create_task(follow(paths, self._progress, leave_out=self._leave_out))
            try:
                yield
            finally:
                task.cancel()
                # follow() shows the last lines in its finally; without this wait they would be lost.
                await asyncio.gather(task, return_exceptions=True)
        self._progress = None

    def say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.say(text)
        else:
            print(text, file=self._out, flush=True)

    def warn(self, text: str) -> None:
        print_warning(text)


def print_warning(text: str) -> None:
    """Print a warning to standard error, apart from the plan and the results."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


async def follow(paths: RunPaths, progress: Progress, *, leave_out: Collection[str] = ()) -> None:
    """Show new lines until cancelled, then the last ones. Events named in ``leave_out`` are not shown."""
    tails = _Tail(paths.events), _Tail(paths.metrics)
    try:
        while True:
            _show_new(progress, *tails, leave_out)
            await asyncio.sleep(POLL_SECONDS)
    finally:
        _show_new(progress, *tails, leave_out)


def _show_new(progress: Progress, events: "_Tail", metrics: "_Tail", leave_out: Collection[str]) -> None:
    for event in events.new():
        # eval prints the accuracy as its result; on the console it would stand there twice.
        if event.get("event") in leave_out:
            continue
        # A malformed line of another process must not end the console.
        with contextlib.suppress(KeyError, TypeError, ValueError):
            show_event(progress, event)
    for line in metrics.new():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            progress.state.step = int(line["step"])
            progress.state.metrics.update(
                # Names of metrics have a slash; step and time do not.
                {k: float(v) for k, v in line.items() if isinstance(v, int | float) and "/" in k}
            )
        progress.refresh()
    progress.refresh()


def show_event(progress: Progress, event: Mapping[str, Any]) -> None:
    """One event, as a permanent line or as a change of the state. Raises KeyError or similar for a malformed one."""
    state = progress.state
    match event.get("event"):
        case "phase":
            state.enter(str(event["name"]), time.monotonic(), int(event.get("total_steps", 0)))
        case "prepare":
            state.message = _prepared(event)
        case "actor_died" if event.get("restarts", True):
            said = f": {event['said']}" if event.get("said") else ""
            log = f"; log: {event['log']}" if event.get("log") else ""
            died = f"{event['actor']}: {event['how']}{said}"
            # A repeated message is shown once, so another death by the same cause is not shown again.
            progress.warn(f"{died}\n    the run continues while {event['actor']} restarts{log}")
        case "actor_starts":
            progress.say(f"{event['actor']} starts: it {event['doing']}, {event['seconds']} s so far")
        case "actor_recovered":
            progress.say(f"{event['actor']}: serving again after {float(event['seconds']):.1f} s")
        case "actor_killed":
            progress.say(f"{event['actor']}: did not stop in {event['seconds']:g} s (launch.stop_seconds); killed")
        case "set":
            for key, (old, new) in event["changes"].items():
                progress.say(f"{key}: {old} -> {new}, from step {int(event['step']) + 1} on (rlserve set)")
        case "ends_early":
            progress.say(f"training ends at step {event['step']} of {event['steps']}: {event['reason']}")
        case "accuracy":
            progress.say(measured_line(event, str(event["when"])))
        case "warning":
            progress.warn(str(event["message"]), str(event.get("traceback") or ""))


def _prepared(event: Mapping[str, Any]) -> str:
    """Progress of pretraining or fine-tuning, with the same labels as training."""
    known = (
        ("step", f"{event['step']}/{event['steps']}"),
        ("tokens/s", f"{float(event['tokens_per_second']):.0f}"),
        ("ETA", minutes(float(event["eta_seconds"]))),
    )
    named = ("event", "unix_seconds", "stage", "step", "steps", "tokens_per_second", "eta_seconds")
    others = [(name, _short(value)) for name, value in event.items() if name not in named]
    return "  ".join(f"{label} {text}" for label, text in (known[0], *others, *known[1:]))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Tail:
    """New complete lines of a growing JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # From the end: a resumed run's earlier lines were shown in its earlier life.
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            size = file.seek(0, 2)
            self._offset = min(self._offset, size)  # a resumed run cuts the lines of steps that it repeats
            file.seek(self._offset)
            data = file.read()
        # A line that its writer has not finished waits for the next look.
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
