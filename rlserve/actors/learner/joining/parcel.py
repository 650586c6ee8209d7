"""What a host that joins gets: the configuration less what its role does not read, and the files that it names.

A rollout worker gets the start model, from which its engine learns the layout of the weights that the policy stream
brings; a teacher gets its own. A verifier gets the files of reward functions, if the run's owner lets them out.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlserve import references
from rlserve.actors.learner.train.saving.model_files import read_companions
from rlserve.actors.start_model import model_at
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.teacher import START, TeacherConfig
from rlserve.errors import InvalidRequest, NotReady, UnknownName
from rlserve.records import ActorKind

ROLES = (ActorKind.ROLLOUT, ActorKind.VERIFIER, ActorKind.TEACHER)
MODEL, CODE = "model", "code"
"""Folders of the files in the directory of the host that joins."""


@dataclass(frozen=True, slots=True)
class ParcelFile:
    """One file: its place at the other host, and where its content is here."""

    path: str
    content: bytes | Path
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """What one role gets."""

    config: str
    files: tuple[ParcelFile, ...]


def parcel_for(role: ActorKind, teacher: str, config: RunConfig, paths: RunPaths, start_model: str) -> Parcel:
    """The parcel of a role. Reads and digests files: call it in a thread.

    Raises InvalidRequest for a role that cannot join, UnknownName for a teacher that the run does not have, NotReady
    while its model is in the making.
    """
    match role:
        case ActorKind.ROLLOUT:
            files = model_files(start_model)
            bare = _bare(config)
            bare["model"]["path"] = MODEL if files else start_model
            return _parcel(bare, files)
        case ActorKind.VERIFIER:
            options, functions = _with_files(config.verifier_options)
            if functions and not config.verifier.share_functions:
                names = ", ".join(sorted(path.name for path in functions.values()))
                raise InvalidRequest(
                    f"verifier.share_functions: is false, and verifiers of this run need {names}; these files are "
                    "code, which the joining host would run: set it to true where the run was started, or give this "
                    "host another role"
                )
            bare = _bare(config)
            bare["verifier"]["options"] = options
            return _parcel(bare, [_file_of(f"{CODE}/{name}", path) for name, path in functions.items()])
        case ActorKind.TEACHER:
            return _teacher(_named(teacher, config), config, paths, start_model)
    raise InvalidRequest(f"role: is {role!r}; a host joins as {', '.join(ROLES)}")


def _bare(config: RunConfig) -> dict[str, Any]:
    """The configuration without options of plug-ins, trackers and paths: they stay with the actors that read them."""
    values = config.model_dump(mode="json", exclude_none=True)
    for table in ("directory", "trackers", "reward", "pretrain", "sft"):
        values.pop(table, None)
    for table in (values["verifier"], values["launch"], values["store"], *values["environments"]):
        table.pop("options", None)
    values["launch"].pop("ray", None)  # its environment variables may be secrets
    for environment in values["environments"]:
        environment.pop("reward", None)
        environment.pop("plugin", None)
    for teacher in values["teachers"]:
        for key in ("model", "pretrain", "sft"):
            teacher.pop(key, None)
        teacher["servers"] = 0  # else a teacher needs a model
    values["model"]["path"] = MODEL
    return values


def _teacher(teacher: TeacherConfig, config: RunConfig, paths: RunPaths, start_model: str) -> Parcel:
    if teacher.is_made_here:
        made = paths.teacher(teacher.name).start_model
        if not made.exists():
            raise NotReady(f"teacher {teacher.name!r}: its model is in the making; ask again in a while")
        model = str(made)
    else:
        model = start_model if teacher.model == START else teacher.model and model_at(teacher.model)
    if not model:
        raise InvalidRequest(f"teachers.model: is empty for {teacher.name!r}; name a checkpoint to serve")
    files = model_files(model)
    bare = _bare(config)
    place = next(place for place in bare["teachers"] if place["name"] == teacher.name)
    place["model"] = MODEL if files else model
    return _parcel(bare, files)


def _named(name: str, config: RunConfig) -> TeacherConfig:
    known = {teacher.name: teacher for teacher in config.teachers}
    found = known.get(name or next(iter(known), ""))
    if found is None:
        raise UnknownName(f"teacher: {name!r} is not in [[teachers]] (known: {', '.join(known) or 'none'})")
    return found


def model_files(model: str) -> list[ParcelFile]:
    """Files of a checkpoint directory; none for a hub name, which the other host loads from the hub itself."""
    directory = Path(model)
    if not directory.is_dir():
        return []
    files = [
        ParcelFile(f"{MODEL}/{name}", content, len(content), hashlib.sha256(content).hexdigest())
        for name, content in read_companions(model).items()
    ]
    weights = [*directory.glob("*.safetensors"), *directory.glob("*.safetensors.index.json")]
    return files + [_file_of(f"{MODEL}/{path.name}", path) for path in sorted(weights)]


def _with_files(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The options with each reference to a file pointing below CODE, and those files by their names there."""
    files: dict[str, Path] = {}

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [moved(inner) for inner in value]
        if not isinstance(value, str) or not references.is_reference(value):
            return value
        file = references.file_of(value)
        if file is None:
            return value
        # Two files of one name, in different folders, stay apart.
        name = next(n for n in _names(file) if files.setdefault(n, file) == file)
        return f"{CODE}/{name}:{references.name_in(value)}"

    return {key: moved(value) for key, value in options.items()}, files


def _names(file: Path) -> list[str]:
    return [file.name, f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}.py"]


def _parcel(values: Mapping[str, Any], files: list[ParcelFile]) -> Parcel:
    return Parcel(to_toml(validate(RunConfig, values)), tuple(files))


def _file_of(path: str, source: Path) -> ParcelFile:
    if not source.is_file():
        raise NotReady(f"{path}: the file {str(source)!r} is not there; put it back where the run was started")
    status = source.stat()
    return ParcelFile(path, source, status.st_size, _digest(source, status.st_mtime_ns, status.st_size))


@cache
def _digest(path: Path, mtime: int, size: int) -> str:
    # Weights take a second per gigabyte, and many hosts join.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
