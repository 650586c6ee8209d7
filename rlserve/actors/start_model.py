"""Waits for and finds start models: given by path, or made by [pretrain] and [sft] while the actors start."""

import time
from pathlib import Path

from rlserve.actors.checkpoints import latest
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.teacher import START, TeacherConfig
from rlserve.errors import DeadlineExceeded, InvalidRequest

POLL_SECONDS = 0.05
"""One look at a directory; its delay is nothing beside loading a model."""


def wait_for_start_model(config: RunConfig, paths: RunPaths) -> str:
    """Path or hub name of the start model, once it exists.

    Actors call this after importing their libraries, so that the preparation runs meanwhile. Raises
    DeadlineExceeded when the preparation takes longer than ``launch.prepare_seconds``.
    """
    if config.model.path:
        return model_at(config.model.path)
    return str(_wait(paths.start_model, config.launch.prepare_seconds))


def wait_for_teacher_model(teacher: TeacherConfig, config: RunConfig, paths: RunPaths) -> str:
    """Path or hub name of a teacher's model, once it exists; empty when the configuration names none.

    Raises DeadlineExceeded like ``wait_for_start_model``.
    """
    if teacher.is_made_here:
        return str(_wait(paths.teacher(teacher.name).start_model, config.launch.prepare_seconds))
    if teacher.model == START:
        return wait_for_start_model(config, paths)
    return model_at(teacher.model) if teacher.model else ""


def _wait(path: Path, seconds: float) -> Path:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"start checkpoint: {path} does not exist after {seconds:g} s (launch.prepare_seconds); see the log of "
                "the process `prepare`"
            )
        time.sleep(POLL_SECONDS)
    return path


def model_at(path: str) -> str:
    """The model at ``path``: a checkpoint, a hub name, or the newest checkpoint of a run directory.

    Raises InvalidRequest for a directory that does not exist, and for a run without a checkpoint.
    """
    # A hub name is "name" or "owner/name", without a leading dot or slash: anything else is a mistyped path.
    if not Path(path).exists() and (Path(path).is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise InvalidRequest(f"model: there is no directory {path!r}; give a checkpoint, a run, or a hub name")
    checkpoints = RunPaths(Path(path)).checkpoints
    if not checkpoints.is_dir():
        return path
    newest = latest(checkpoints)
    if newest is None:
        raise InvalidRequest(f"model: {path!r} has no whole checkpoint yet; wait for one")
    return str(newest.model_path.resolve())
