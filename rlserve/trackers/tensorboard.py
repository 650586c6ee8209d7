"""TensorBoard: event files, by the ``tensorboard`` package alone."""

import html
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.trackers.base import COLUMNS, Row, TrackedRun, need_directory, need_package, need_texts

FLUSH_SECONDS = 10
"""A viewer that reloads every 30 s, TensorBoard's default, then misses nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorboardTracker:
    """Event files under ``directory``, by default ``tensorboard/`` of the run directory."""

    directory: str = ""

    def __post_init__(self) -> None:
        need_texts(directory=self.directory)

    def check(self, root: Path) -> None:
        """Raises InvalidRequest without the package or a directory."""
        need_package("tensorboard", "tensorboard")
        need_directory("directory", self._place(root))

    def open(self, run: TrackedRun) -> "_Writer":
        """A new event file; after a resume one that hides what was written beyond ``run.step``."""
        # A given directory may hold several runs, each of which TensorBoard shows by its folder.
        place = self._place(run.root) / run.name if self.directory else self._place(run.root)
        return _Writer(place, run)

    def _place(self, root: Path) -> Path:
        return Path(self.directory).expanduser() if self.directory else root / "tensorboard"


class _Writer:
    def __init__(self, place: Path, run: TrackedRun) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.identity = str(place)
        self._files = EventFileWriter(str(place), flush_secs=FLUSH_SECONDS)
        if run.identity:
            # TensorBoard then forgets events of this and later steps in earlier files.
            self._write(run.step + 1, session_log=SessionLog(status=SessionLog.START))
        self._text(run.step, "configuration", "    " + json.dumps(run.config, indent=2).replace("\n", "\n    "))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step, summary=Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        lines += ["| " + " | ".join(_cell(row.get(column)) for column in COLUMNS) + " |" for row in rows]
        self._text(step, name, "\n".join(lines))

    def result(self, values: Mapping[str, float | str]) -> None:
        self._text(0, "result", "\n".join(f"* {name}: {value}" for name, value in values.items()))

    def close(self) -> None:
        self._files.close()

    def _text(self, step: int, tag: str, markdown: str) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write(step, summary=text_pb(tag, markdown))

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._files.add_event(Event(wall_time=time.time(), step=step, **content))


def _cell(value: Any) -> str:
    """A value inside a Markdown table: one line, its bars and tags harmless."""
    text = "" if value is None else html.escape(str(value))
    return text.replace("|", "&#124;").replace("\n", "<br>")
