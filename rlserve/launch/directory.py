"""A run's directory: its lock, and the files written before the first actor starts.

A refused start changes nothing.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rlserve.config.digest import digest_of
from rlserve.config.live import applied, read_changes
from rlserve.config.load import to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import read_json

Inputs = Mapping[str, Callable[[Path], None]]
"""Files that a run is given with its configuration, by name, and what writes each to a path. A name stands for one
content, so that a file that is there already is right."""
LOCK = "launcher.lock"
FULL_BYTES = 2**20
"""A disk with less room than this is full: no checkpoint fits, and hardly a log."""


@contextmanager
def claimed(paths: RunPaths, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the run's lock, so that two launchers never share a directory.

    Raises InvalidRequest when another launcher holds it, when an earlier run would be lost, or when the directory
    cannot be made. If the block ends before a configuration was written, the lock and new directories are removed.
    """
    # Before anything is made: a refused start leaves no directory and no lock.
    _refuse_to_lose(paths, resume=resume, overwrite=overwrite)
    made = _make(paths.root)
    lock = paths.root / LOCK
    was_there = lock.exists()
    try:
        with open(lock, "a", encoding="ascii") as file:
            try:
                # The kernel releases it when this process ends, however it ends: a lock file with a pid could be stale.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # The other launcher's file: unlinking it would let a third launcher lock a new file of the same name.
                was_there = True
                raise InvalidRequest(
                    f"name: {str(paths.root)!r} is being run by another launcher; stop it or choose another name"
                ) from None
            yield
    except OSError as error:
        # The body of the with block runs inside this try: its own OSErrors pass unchanged.
        if error.filename != str(lock):
            raise
        raise _unwritable(paths.root, error) from None
    finally:
        # Once config.toml is there the directory is a run, which a failure must not remove.
        if not (was_there or paths.config.exists()):
            with suppress(OSError):
                lock.unlink()
            _remove(made)


def _refuse_to_lose(paths: RunPaths, *, resume: bool, overwrite: bool) -> None:
    try:
        if resume or not paths.root.exists() or not any(e.name != LOCK for e in paths.root.iterdir()):
            return
    except OSError as error:
        raise _unwritable(paths.root, error) from None
    if not overwrite:
        raise InvalidRequest(
            f"name: {str(paths.root)!r} exists already; continue with `rlserve run --resume {paths.root}`, "
            "start again with --overwrite, or choose another name with --set name=NAME"
        )
    if not paths.config.exists():
        raise InvalidRequest(f"--overwrite: {str(paths.root)!r} is no run (no config.toml); not deleted")


def _make(root: Path) -> list[Path]:
    """Make the directory; returns the ones that did not exist, the deepest first."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove(missing)
        raise _unwritable(root, error) from None
    return missing


def _remove(made: list[Path]) -> None:
    for path in made:
        with suppress(OSError):
            # rmdir, not rmtree: it removes a directory only while it is empty.
            path.rmdir()


def _unwritable(root: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"directory: {str(root)!r} cannot be made or written ({error.strerror}); give another with "
        "--set directory=DIRECTORY"
    )


@contextmanager
def written(paths: RunPaths, inputs: Inputs) -> Iterator[None]:
    """Write ``inputs`` below ``paths.inputs``; if the block fails, those that were not there before are removed."""
    new = [paths.inputs / name for name in inputs if not (paths.inputs / name).exists()]
    made = _make(paths.inputs) if inputs else []
    try:
        for path in new:
            inputs[path.name](path)
        yield
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        _remove(made)
        raise


def clear(paths: RunPaths, *, keep: Collection[str] = ()) -> None:
    """Delete an earlier run, except the lock, which this process holds, and the inputs named in ``keep``."""
    for path in paths.root.iterdir():
        if path.name == LOCK:
            continue
        if path == paths.inputs:
            for old in path.iterdir():
                if old.name not in keep:
                    old.unlink()
            continue
        # A link goes, not what it leads to: checkpoints may be linked to another disk.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def full_disk(root: Path) -> str:
    """A message when the disk of ``root`` is full, else an empty text."""
    free = shutil.disk_usage(root).free
    return f"The disk of {root} is full ({free} bytes left): make room first" if free < FULL_BYTES else ""


def write_config(config: RunConfig, paths: RunPaths) -> str:
    """Write ``config.toml`` whole or not at all; returns its digest."""
    text = to_toml(config).encode()
    _replace(paths.config, text)
    return digest_of(text)


def keep_live(config: RunConfig, paths: RunPaths) -> RunConfig:
    """Move what ``rlserve set`` changed into ``config.toml``; returns the configuration with it."""
    changes = read_changes(paths.live)
    if not changes:
        return config
    config = applied(config, changes)
    write_config(config, paths)
    # Last: after a crash between the two the same changes are made again.
    paths.live.unlink()
    return config


def is_finished(config: RunConfig, paths: RunPaths) -> bool:
    """Whether ``config`` has nothing left to do: all steps are made, or it ended early by its own rule."""
    steps = read_json(paths.summary).get("steps")
    if not isinstance(steps, int):
        return False
    # A run that ended early by stop_reward or stop_groups is finished only under the configuration that ended it; with
    # another one a resume goes on.
    return steps >= config.steps > 0 or (_ended_well(paths) and paths.config.read_text("utf-8") == to_toml(config))


def _ended_well(paths: RunPaths) -> bool:
    ends = [e for e in read_json_lines(paths.events) if e.get("event") in ("run_started", "run_ended")]
    return bool(ends) and ends[-1].get("how") == "finished"


def relabel_samples(paths: RunPaths) -> None:
    """Rename samples of an earlier life from "after" to the step at which they were made."""
    steps = read_json(paths.summary).get("steps")
    if steps is None or not paths.samples.exists():
        return
    rows = [dict(row) for row in read_json_lines(paths.samples)]
    for row in rows:
        if row.get("when") == "after":
            row["when"] = f"at-{steps}"
    _replace(paths.samples, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _replace(path: Path, data: bytes) -> None:
    # In the same directory, since a rename is atomic only within one file system.
    temporary = path.with_suffix(path.suffix + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            # Without it a power cut after the rename may leave an empty file under the final name.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error  # an error of write() has no file name
