"""Weights & Biases, by the ``wandb`` package: online, or into a directory for ``wandb sync``."""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.trackers.base import COLUMNS, Row, TrackedRun, need_directory, need_package, need_texts

MODES = ("online", "offline")
STEP = "step"
"""The metric that every curve is drawn over: W&B's own counter may not go back, and a resume may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbTracker:
    """A run in W&B. Empty options are those of ``wandb login`` and of the environment variables of W&B."""

    project: str = "rlserve"
    entity: str = ""
    mode: str = ""
    """``online`` or ``offline``; empty: as ``WANDB_MODE`` says, else online."""
    directory: str = ""
    """Of W&B's local files; empty: ``wandb/`` of the run directory."""

    def __post_init__(self) -> None:
        need_texts(project=self.project, entity=self.entity, mode=self.mode, directory=self.directory)
        if self.mode and self.mode not in MODES:
            raise InvalidRequest(f"mode: is {self.mode!r}; give {' or '.join(MODES)}")

    def check(self, root: Path) -> None:
        """Raises InvalidRequest without the package, a directory, or online without a login."""
        need_package("wandb", "wandb")
        need_directory("directory", self._place(root))
        if self._mode == "online" and not _is_logged_in():
            raise InvalidRequest(
                "mode: is 'online', but there is no login of W&B here; run `wandb login`, set WANDB_API_KEY, or set "
                'options = { mode = "offline" }'
            )

    def open(self, run: TrackedRun) -> "_Run":
        """A new run, or after a resume the same one."""
        place = self._place(run.root)
        place.mkdir(parents=True, exist_ok=True)
        return _Run(self, self._mode, place, run)

    @property
    def _mode(self) -> Any:
        return self.mode or os.environ.get("WANDB_MODE", "online")

    def _place(self, root: Path) -> Path:
        # W&B itself adds the folder wandb/.
        return Path(self.directory).expanduser() if self.directory else root


class _Run:
    def __init__(self, options: WandbTracker, mode: Any, place: Path, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        self.identity = run.identity or uuid.uuid4().hex[:12]  # W&B's own have 8 characters
        self._run = wandb.init(
            project=options.project,
            entity=options.entity or None,
            name=run.name,
            id=self.identity,
            resume="allow",
            mode=mode,
            dir=str(place),
            config=dict(run.config),
            # A server without a screen: no capture of the console, no copy of the user's code, no messages.
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({STEP: step, **values})

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        data: list[list[Any]] = [[row.get(column) for column in COLUMNS] for row in rows]
        # Mixed: the reward is missing where there is no verdict.
        self._run.log({STEP: step, name: self._wandb.Table(columns=list(COLUMNS), data=data, allow_mixed_types=True)})

    def result(self, values: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()


def _is_logged_in() -> bool:
    import wandb
    from wandb.errors import AuthenticationError, UsageError
    from wandb.sdk.lib import wbauth

    try:
        host = wandb.setup().settings.base_url
        # Variables, ~/.netrc and settings, as ``wandb.init`` looks for it, but without a question at the terminal.
        found = wbauth.authenticate_session(host=host, source="rlserve", prompt=False, update_session=False)
    except (AuthenticationError, UsageError):
        return False
    return found is not None
