"""Brings a run from its mirror to a machine that has nothing of it: every file checked by its digest."""

import logging
import shutil
import tomllib
from pathlib import Path

from rlserve.actors.checkpoints import MANIFEST, check
from rlserve.actors.mirror.place import Place
from rlserve.actors.mirror.uploads import LINK, RECORDS
from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.errors import ConfigError, InvalidRequest, StateCorrupt

logger = logging.getLogger(__name__)


def fetch_run(url: str, directory: Path) -> RunPaths:
    """The run at ``url`` as ``directory/NAME``, with its newest checkpoint that is whole.

    Raises InvalidRequest when there is no run, or one is here already; StateCorrupt when no checkpoint is whole.
    """
    place = Place(url)
    text = place.read("config.toml")
    if text is None:
        raise InvalidRequest(f"--resume: there is no run at {url} (it has no config.toml); give checkpoint.mirror/NAME")
    try:
        name = str(tomllib.loads(text.decode())["name"])
    except (ValueError, KeyError) as error:
        raise ConfigError(f"--resume: config.toml at {url} cannot be read: {error}") from None
    root = directory / name
    # By its name alone: a name with a slash would lead elsewhere.
    if root.parent != directory or name in ("", ".", ".."):
        raise ConfigError(f"name: is {name!r} in {url}/config.toml, which is no name of a directory")
    if root.exists():
        raise InvalidRequest(f"--resume: {str(root)!r} is here already; continue it with rlserve run --resume {root}")
    # Beside it, and renamed when whole: a fetch that breaks off leaves no half of a run.
    partial = directory / f".{name}.fetching"
    shutil.rmtree(partial, ignore_errors=True)
    paths = RunPaths(partial)
    partial.mkdir(parents=True)
    for record in RECORDS:
        if (content := place.read(record)) is not None:
            (partial / record).write_bytes(content)
    config = load_run([paths.config]).model_copy(update={"directory": str(directory)})
    paths.config.write_text(to_toml(config), encoding="utf-8")
    for model in ("start", *(f"teachers/{teacher}/start" for teacher in place.names("teachers"))):
        if place.read(f"{model}/{MANIFEST}") is not None:
            place.get_tree(model, partial / model)
            check(partial / model)
    _fetch_checkpoints(place, paths)
    partial.rename(root)
    return RunPaths(root)


def _fetch_best(place: Place, paths: RunPaths, *, newest: str) -> None:
    """The best checkpoint, if it is another one; training goes on without it, so that a fault is only logged."""
    name = (place.read(f"checkpoints/{LINK}") or b"").decode()
    if name == newest or name not in place.names("checkpoints"):
        return
    try:
        place.get_tree(f"checkpoints/{name}", paths.checkpoints / name)
        check(paths.checkpoints / name)
    except (StateCorrupt, FileNotFoundError) as error:
        logger.warning("the best checkpoint, %s, is not whole at the mirror: %s", name, error)
        shutil.rmtree(paths.checkpoints / name, ignore_errors=True)


def _fetch_checkpoints(place: Place, paths: RunPaths) -> None:
    names = [name for name in place.names("checkpoints") if name.startswith("step-") and name[5:].isdigit()]
    broken = []
    for name in sorted(names, key=lambda name: -int(name[5:])):
        target = paths.checkpoints / name
        try:
            place.get_tree(f"checkpoints/{name}", target)
            check(target)
        except (StateCorrupt, FileNotFoundError) as error:
            logger.warning("checkpoint %s of the mirror is passed over: %s", name, error)
            broken.append(f"{name} ({error})")
            shutil.rmtree(target, ignore_errors=True)
        else:
            _fetch_best(place, paths, newest=name)
            return
    if broken:
        raise StateCorrupt(f"checkpoints: none at {place.url} is whole: {'; '.join(broken)}")
