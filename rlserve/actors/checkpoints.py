"""Checkpoints on disk: how to find the newest, and what makes one whole. Imports no engine: any actor may look.

``step-<n>/`` is a Hugging Face model directory, or with ``learner.lora`` an adapter in peft's form. The rest of the
training state is in ``training/``, and a manifest lists every file with size and digest. The manifest is written last,
so a directory is whole or has none. The digests find what a crash or a disk broke. They are no signature: who can write
the directory can write both.

Example: ``latest(paths.checkpoints)`` passes over ``step-8`` when a file of it is truncated, and opens ``step-6``.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.errors import StateCorrupt

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 2  # raised when a reader of the older layout would misread the newer one
TRAINING = "training"
STORE_FILE = "groups.sqlite"
REFERENCE = "reference"
_NAME = re.compile(r"step-(\d+)(\.replaced)?")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int
    state: Mapping[str, Any]
    """State of the training loop."""
    optimizer_steps: int
    """Updates that the optimizer made."""
    base_digest: str = ""
    """Of the model that its adapters belong to; empty when it holds a whole model."""

    @property
    def model_path(self) -> Path:
        """A directory that transformers and vLLM load; of adapters one that peft loads."""
        return self.path

    @property
    def training_path(self) -> Path:
        """Directory of the training state."""
        return self.path / TRAINING

    @property
    def reference_path(self) -> Path | None:
        """The reference model; None when it is the run's start."""
        path = self.path / REFERENCE
        return path if path.is_dir() else None

    @property
    def store_path(self) -> Path:
        """The copy of the run's store that was made with it."""
        return self.training_path / STORE_FILE


def latest(directory: Path) -> Checkpoint | None:
    """The newest whole checkpoint under ``directory``, None when there is none of any kind.

    Broken ones are named in a warning and passed over. Raises StateCorrupt that names them when all are.
    """
    broken = []
    for path, _ in by_falling_step(directory):
        try:
            return open_checkpoint(path)
        except StateCorrupt as error:
            logger.warning("checkpoint %s is passed over: %s", path.name, error)
            broken.append(f"{path.name} ({error})")
    if broken:
        raise StateCorrupt(
            f"checkpoints: none is whole: {'; '.join(broken)}. Put one back from a copy of {directory}, or start the "
            "run over with --overwrite"
        )
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at ``path``. Raises StateCorrupt if it is not whole."""
    return read_checkpoint(path, check(path))


def read_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint at ``path``, whose manifest holds ``content``. Raises StateCorrupt when that lacks a field."""
    try:
        return Checkpoint(
            path=path,
            step=int(content["step"]),
            state=content["state"],
            optimizer_steps=int(content["optimizer_steps"]),
            base_digest=content.get("base_digest", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StateCorrupt(f"{path / MANIFEST}: lacks {error}") from error


def by_falling_step(directory: Path) -> list[tuple[Path, int]]:
    """Checkpoints and their steps, newest first, whole or not."""
    if not directory.is_dir():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in directory.iterdir() if path.is_dir())
    steps = [(path, int(match[1])) for path, match in named if match]
    # Of one step, "step-6" comes before "step-6.replaced", which a repeated save moved aside and removes at its end.
    return sorted(steps, key=lambda found: (-found[1], found[0].name))


def seal(directory: Path, content: Mapping[str, Any], written: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``content`` and the digest of every file under ``directory``; all of it is on the disk on return.

    ``written`` are files whose size and digest are known, and which are on the disk.
    """
    found = {str(p.relative_to(directory)): p for p in sorted(directory.rglob("*")) if p.is_file()}
    files = {name: written.get(name) or _entry(path) for name, path in found.items()}
    whole = {"format": FORMAT, **content, "files": files}
    (directory / MANIFEST).write_text(json.dumps(whole, indent=1))
    # Directories, too: fsync of a file does not put its name on the disk (fsync(2)).
    for path in sorted(directory.rglob("*")):
        if str(path.relative_to(directory)) not in written:
            sync(path)
    sync(directory)


def check(directory: Path) -> dict[str, Any]:
    """The content of a whole directory's manifest. Raises StateCorrupt that names the first broken file."""
    try:
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        if content["format"] != FORMAT:
            raise StateCorrupt(f"{directory / MANIFEST}: is of format {content['format']}, this version reads {FORMAT}")
        for name, entry in content["files"].items():
            _check_file(directory / name, entry)
    # TypeError and AttributeError: JSON of another shape, such as a list.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateCorrupt(f"{directory / MANIFEST}: cannot be read: {type(error).__name__}: {error}") from error
    return content


def entries(directory: Path) -> dict[str, Any]:
    """Size and digest of every file under ``directory`` but a manifest, as a manifest has them."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(directory).as_posix(): _entry(path) for path in found}


def sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise StateCorrupt(f"{path}: is missing")
    # The size first: it finds a truncated file without a read of gigabytes.
    if (size := path.stat().st_size) != entry["bytes"]:
        raise StateCorrupt(f"{path}: has {size} bytes, not {entry['bytes']}")
    if _digest(path) != entry["sha256"]:
        raise StateCorrupt(f"{path}: its content is not what was written")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
