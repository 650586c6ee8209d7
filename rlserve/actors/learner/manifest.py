"""What makes a checkpoint directory whole: a list of its files with sizes and digests, written last.

The digests find what a crash or a disk broke. They are no signature: who can write the directory can write both.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.errors import StateCorrupt

NAME = "manifest.json"
FORMAT = 1


def seal(directory: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` and the digest of every file under ``directory``; all of it is on the disk on return."""
    files = {str(p.relative_to(directory)): _entry(p) for p in sorted(directory.rglob("*")) if p.is_file()}
    whole = {"format": FORMAT, **content, "files": files}
    (directory / NAME).write_text(json.dumps(whole, indent=1))
    for path in sorted(directory.rglob("*")):
        sync(path)
    sync(directory)


def check(directory: Path) -> dict[str, Any]:
    """The content of a whole directory. Raises StateCorrupt that names the first broken file."""
    try:
        content: dict[str, Any] = json.loads((directory / NAME).read_text())
        if content["format"] != FORMAT:
            raise StateCorrupt(f"{directory / NAME}: is of format {content['format']}, this version reads {FORMAT}")
        for name, entry in content["files"].items():
            _check_file(directory / name, entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateCorrupt(f"{directory / NAME}: cannot be read: {type(error).__name__}: {error}") from error
    return content


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
    if (size := path.stat().st_size) != entry["bytes"]:
        raise StateCorrupt(f"{path}: has {size} bytes, not {entry['bytes']}")
    if _digest(path) != entry["sha256"]:
        raise StateCorrupt(f"{path}: its content is not what was written")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
