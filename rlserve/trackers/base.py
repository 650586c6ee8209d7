"""What a tracker is: its options, a check before anything starts, and one run of it."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlserve.errors import InvalidRequest

Row = Mapping[str, Any]
COLUMNS = ("when", "environment", "task_id", "prompt", "completion", "reward", "right", "truncated", "reason")
"""Of a table of samples, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker gets to know of a run when it begins or goes on."""

    name: str
    root: Path
    """The run directory."""
    config: Mapping[str, Any]
    """The resolved configuration, without passwords."""
    step: int
    """Where this life begins: curves beyond it belong to a future that a resume gave up."""
    identity: str
    """What ``RunTracker.identity`` was in an earlier life; empty in the first."""


class RunTracker(Protocol):
    """One run in a tracker. Every method may block and may raise: ``feed`` calls them in a thread of their own."""

    identity: str
    """By which the tracker finds this run again after a resume."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, all finite. The same step may come again: an evaluation at it, or after a resume."""
        ...

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        """Samples of an evaluation, with ``COLUMNS``."""
        ...

    def result(self, values: Mapping[str, float | str]) -> None:
        """The result of the finished run."""
        ...

    def close(self) -> None:
        """Send what is left; also after a failure, and without ``result``."""
        ...


class Tracker(Protocol):
    """A tracker as ``[[trackers]]`` configures it, made as ``cls(**options)``, which does no more than check them."""

    def check(self, root: Path) -> None:
        """Raises InvalidRequest when no run in ``root`` can be tracked: no package, no login, no directory."""
        ...

    def open(self, run: TrackedRun) -> RunTracker:
        """Begin to track ``run``, or go on with the one of ``run.identity``."""
        ...


def need_package(module: str, tracker: str) -> None:
    """Raises InvalidRequest when the package of a tracker is not installed."""
    # Not an import: that takes seconds.
    if importlib.util.find_spec(module) is None:
        raise InvalidRequest(
            f"type: {tracker!r} needs the package {module!r}, which is not installed; pip install 'rlserve[{tracker}]'"
        )


def need_directory(key: str, directory: Path) -> None:
    """Raises InvalidRequest, naming the option ``key``, when ``directory`` can be neither written nor made."""
    # lexists: mkdir fails at a dangling link, which does not "exist".
    there = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InvalidRequest(f"{key}: {str(there)!r} is no directory; give another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidRequest(f"{key}: {str(there)!r} cannot be written; give another directory")


def need_texts(**options: object) -> None:
    """Raises InvalidRequest for an option that is no text."""
    for key, value in options.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"{key}: is {value!r}; give a text")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted names; arrays of tables by position."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inside = dict(enumerate(value)) if _is_tables(value) else value
        if isinstance(inside, Mapping):
            found |= flat({str(k): v for k, v in inside.items()}, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)
