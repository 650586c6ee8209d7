"""A run of zero steps in a temporary directory: held-out numbers of a checkpoint, or its samples with their rewards."""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rlserve.config.load import merge, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.console.follow import Console
from rlserve.errors import InvalidRequest
from rlserve.launch.run import Display
from rlserve.launch.run import run as launch
from rlserve.observability.events import read_json_lines
from rlserve.weight_sync.own_directory import OwnDirectory

_STEP = re.compile(r"step-\d+")
NOT_MEASURED = ("pretrain", "sft", "trackers")
"""Tables that a measurement has no use for: the model exists, and trackers show runs alone."""
NOT_SAMPLED = (*NOT_MEASURED, "teachers", "algorithm", "reference", "evaluate")
"""Those that sampling has no use for; teachers would be started for nothing."""
ONCE = "rlserve-once"
"""Prefix of the directories of such runs."""
NOT_ONCE = ("keep_best", "patience")
"""Keys of ``[evaluate]`` that compare evaluations of one training."""


def evaluation_config(
    config: RunConfig,
    model: str,
    directory: str,
    *,
    problems: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
) -> RunConfig:
    """``config`` as a measurement of ``model`` in ``directory``; what is None stays as it is."""
    asked = {"problems": problems, "samples": samples, "temperature": temperature}
    change = {"evaluate": {key: value for key, value in asked.items() if value is not None}}
    # Sizes of the run's own samples do not fit another number of them.
    keys = {*NOT_ONCE, *(("k",) if samples else ())}
    return _once(config, {**dict.fromkeys(NOT_MEASURED, True), "evaluate": keys}, "eval", model, directory, change)


def sampling_config(
    config: RunConfig, model: str, directory: str, *, problems: int, samples: int, temperature: float, held_out: bool
) -> RunConfig:
    """``config`` as a run in ``directory`` that samples from ``model`` and writes all samples."""
    change = {
        "evaluate": {
            "problems": problems,
            "samples": samples,
            "temperature": temperature,
            "from_training": not held_out,
            # All samples. The measurement splits the problems over environments and may round each share up.
            "keep": problems + len(config.environments),
        }
    }
    return _once(config, dict.fromkeys(NOT_SAMPLED, True), "generate", model, directory, change)


def _once(
    config: RunConfig, without: dict[str, Any], name: str, model: str, directory: str, change: dict[str, Any]
) -> RunConfig:
    values = config.model_dump(exclude_none=True, exclude=without)
    # With [pretrain] beside model.path the configuration would be refused.
    start = {"name": name, "directory": directory, "steps": 0, "model": {"path": model}, "checkpoint": {"mirror": ""}}
    return validate(RunConfig, merge(values, start | change))


@contextmanager
def ran_once(make: Callable[[str], RunConfig], display: Display | None = None) -> Iterator[tuple[RunConfig, int]]:
    """The configuration that ``make`` gives for a temporary directory, run to its end, and its exit code.

    Progress goes to standard error. Raises InvalidRequest, before anything starts, if nothing would be measured.
    """
    # A measurement leaves nothing behind, and never touches the run that it measures; what one that was killed has
    # left, the next one removes.
    with closing(OwnDirectory.below(Path(tempfile.gettempdir()), ONCE)) as own:
        config = make(str(own.path))
        if not config.evaluate.is_on:
            raise InvalidRequest(
                "evaluate.problems: is 0, so nothing would be measured; give a number (--problems 500)"
            )
        paths = RunPaths(Path(config.directory) / config.name)
        # Progress to standard error: standard output is for the result, which scripts read.
        display = display or Console(config.name, sys.stderr, leave_out=("accuracy",))
        # The block of the caller comes inside of the with block: its files are read before the directory goes.
        yield config, launch(config, paths, keeps=False, display=display)


def samples_of(config: RunConfig) -> list[dict[str, Any]]:
    """The samples that the run wrote, without the measurement's name, which has no meaning here."""
    rows = read_json_lines(RunPaths(Path(config.directory) / config.name).samples)
    return [{key: value for key, value in row.items() if key != "when"} for row in rows]


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
