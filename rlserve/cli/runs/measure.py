"""A run of zero steps for one measurement, in a temporary directory; used by ``eval`` and ``generate``."""

import re
import sys
from pathlib import Path
from typing import Any

from rlserve.cli.runs.follow import Console
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.launch.run import run as launch
from rlserve.observability.events import read_json_lines

_STEP = re.compile(r"step-\d+")


def run_once(config: RunConfig) -> int:
    """A whole run of ``config`` in its temporary directory; progress goes to standard error. Returns the exit code.

    Raises InvalidRequest, before anything starts, if nothing would be measured.
    """
    if not config.evaluate.is_on:
        raise InvalidRequest("evaluate.problems: is 0, so nothing would be measured; give --problems")
    paths = RunPaths(Path(config.directory) / config.name)
    # Progress to standard error: standard output is for the result, which scripts read.
    return launch(config, paths, keeps=False, display=Console(config.name, sys.stderr, leave_out=("accuracy",)))


def measurement(config: RunConfig) -> dict[str, Any]:
    """The run's "accuracy" event, in which fields may be missing. Raises InvalidRequest if there is none."""
    paths = RunPaths(Path(config.directory) / config.name)
    events = [e for e in read_json_lines(paths.events) if e.get("event") == "accuracy"]
    if not events:
        raise InvalidRequest("model: nothing was measured, although the run finished; see its messages above")
    left_out = ("event", "unix_seconds", "when", "step", "versions", "value")
    return {"accuracy": events[-1].get("value")} | {k: v for k, v in events[-1].items() if k not in left_out}


def config_of(given: Path, asked: str | None) -> Path:
    """The configuration file: ``asked``, or that of the run to which ``given`` belongs.

    ``given`` is a run directory or one of its checkpoints. Raises InvalidRequest if there is no file.
    """
    if asked:
        if not Path(asked).exists():
            raise InvalidRequest(f"--config: no file {asked!r}; give the configuration of a run")
        return Path(asked)
    here = given.resolve()
    # A checkpoint is RUN/checkpoints/step-N, so that the run is two levels up.
    places = [here, *(here.parents[1:2] if _STEP.fullmatch(here.name) else [])]
    for place in places:
        if RunPaths(place).config.exists():
            return RunPaths(place).config
    raise InvalidRequest(
        f"--config: {str(given)!r} is neither a run nor a checkpoint of one (no config.toml), so the environments are "
        "unknown; give the configuration of a run"
    )


def model_of(given: Path) -> str:
    """Absolute path of the checkpoint. Raises InvalidRequest if there is none."""
    if not given.is_dir():
        raise InvalidRequest(f"model: there is no directory {str(given)!r}; give a run or a checkpoint")
    # The rule that preflight applies, so that both look at the same checkpoint of a run.
    from rlserve.launch.preflight.checkpoint import directory_of

    return str((directory_of(str(given)) or given).resolve())
