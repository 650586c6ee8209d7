"""trackio: a local database that ``trackio show`` displays, or a Hugging Face Space."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlserve.errors import InvalidRequest
from rlserve.trackers.base import COLUMNS, Row, TrackedRun, need_directory, need_package, need_texts

DIRECTORY = "TRACKIO_DIR"
"""Where trackio keeps its databases; read when it is imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackioTracker:
    """A run of trackio."""

    project: str = "rlserve"
    space: str = ""
    """Hugging Face Space to which it is sent as well, e.g. ``user/curves``; needs a Hugging Face login."""
    directory: str = ""
    """Of the local databases; empty: trackio's own, as ``TRACKIO_DIR`` says."""

    def __post_init__(self) -> None:
        need_texts(project=self.project, space=self.space, directory=self.directory)

    def check(self, root: Path) -> None:
        """Raises InvalidRequest without the package, a directory, or for a Space without a login."""
        need_package("trackio", "trackio")
        if place := self.directory or os.environ.get(DIRECTORY, ""):
            need_directory("directory", Path(place).expanduser())
        if self.space:
            from huggingface_hub import get_token

            if not get_token():
                raise InvalidRequest(
                    f"space: is {self.space!r}, but there is no Hugging Face login here; run `hf auth login`, set "
                    "HF_TOKEN, or leave the Space out"
                )

    def open(self, run: TrackedRun) -> "_Run":
        """A new run, or after a resume the same one."""
        if self.directory:
            os.environ[DIRECTORY] = str(Path(self.directory).expanduser())
        return _Run(self, run)


class _Run:
    def __init__(self, options: TrackioTracker, run: TrackedRun) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=options.project,
            name=run.name,
            space_id=options.space or None,
            config=dict(run.config),
            # Not "must": a life that ended before its first step has left no run.
            resume="allow" if run.identity else "never",
            embed=False,
        )
        self.identity = str(self._run.name)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        data = [[row.get(column) for column in COLUMNS] for row in rows]
        self._run.log({name: self._trackio.Table(columns=list(COLUMNS), data=data)}, step=step)

    def result(self, values: Mapping[str, float | str]) -> None:
        # trackio has no place for a result but the curves.
        self._run.log({f"result/{k}": v for k, v in values.items()}, step=int(values.get("steps", 0)))

    def close(self) -> None:
        self._run.finish()
