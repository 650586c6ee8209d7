"""A folder at an fsspec URL, and trees of files in it that are whole or have no manifest."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlserve.actors.checkpoints import MANIFEST
from rlserve.errors import ConfigError, RlserveError, StateCorrupt, Unavailable

T = TypeVar("T")
logger = logging.getLogger(__name__)

READS = 4
"""Tries to read a file: stores refuse some calls when they are busy. Writes are tried again by their caller."""
READ_PAUSE_SECONDS = 0.5
PROBE = ".rlserve-probe"


class Place:
    """Files by name below one URL. Every method raises Unavailable with the storage's own words when it fails.

    For example::

        place = Place("s3://bucket/runs").below("quickstart")
        place.put_tree(paths.checkpoints / "step-10", "checkpoints/step-10")   # its manifest last
        place.folders("checkpoints")                                           # ["step-10"]
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a URL that no installed package serves."""
        self.url = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.url)
        except ImportError as error:
            extra = "pip install 'rlserve[s3]'" if url.startswith("s3:") else f"install what serves it ({error})"
            raise ConfigError(f"checkpoint.mirror: {url!r} cannot be read here; {extra}") from None
        except Exception as error:  # of the storage's own kind, which differs between packages
            raise ConfigError(f"checkpoint.mirror: {url!r} cannot be used: {error}") from None

    def below(self, name: str) -> "Place":
        """The folder ``name`` in it."""
        return Place(f"{self.url}/{name}")

    def probe(self) -> None:
        """Write and remove a file. Raises Unavailable when that is impossible."""
        self.write(PROBE, b"")
        self.remove(PROBE)

    def read(self, name: str) -> bytes | None:
        """Content of a file; None when it does not exist."""

        def attempt() -> bytes | None:
            # Object stores cache listings, and what another process wrote would not be seen.
            self._files.invalidate_cache()
            try:
                return bytes(self._files.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

        return self._done(f"read {name}", attempt, tries=READS)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file."""

        def attempt() -> None:
            self._files.makedirs(self._parent(name), exist_ok=True)
            self._files.pipe_file(self._at(name), content)

        self._done(f"write {name}", attempt)

    def put(self, file: Path, name: str) -> None:
        """Put a file of this machine. Raises FileNotFoundError when it is gone."""

        def attempt() -> None:
            self._files.makedirs(self._parent(name), exist_ok=True)
            self._files.put_file(str(file), self._at(name))

        self._done(f"write {name}", attempt)

    def get(self, name: str, file: Path) -> None:
        """Bring a file to this machine."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._done(f"read {name}", lambda: self._files.get_file(self._at(name), str(file)), READS)

    def names(self, name: str = "") -> list[str]:
        """Names of files and folders in a folder; none when it does not exist."""

        def attempt() -> list[str]:
            self._files.invalidate_cache()
            try:
                listed = self._files.ls(self._at(name), detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in listed)

        return self._done(f"list {name or self.url}", attempt)

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it, its manifest first."""

        def attempt() -> None:
            self._files.invalidate_cache()
            manifest = f"{self._at(name)}/{MANIFEST}"
            if self._files.exists(manifest):
                self._files.rm_file(manifest)  # what a crash leaves of the folder is no whole tree
            if self._files.exists(self._at(name)):
                self._files.rm(self._at(name), recursive=True)

        self._done(f"remove {name}", attempt)

    def put_tree(self, directory: Path, name: str, manifest: bytes, done: dict[str, int]) -> None:
        """Put the files that ``manifest`` lists and ``done`` does not, then the manifest.

        ``done`` gets the bytes of each file that went through: after a failure the rest follows. Does nothing when the
        folder has this very manifest.
        """
        held = self.read(f"{name}/{MANIFEST}")
        if held == manifest:
            return
        if held is not None:
            # Of another tree under the same name: without it, a crash below leaves no tree that mixes the two.
            self.remove(f"{name}/{MANIFEST}")
        for file in files_in(manifest):
            if file not in done:
                self.put(directory / file, f"{name}/{file}")
                done[file] = (directory / file).stat().st_size
        self.write(f"{name}/{MANIFEST}", manifest)

    def get_tree(self, name: str, directory: Path) -> None:
        """Bring a tree here. Raises StateCorrupt when it has no manifest, or one that names files elsewhere."""
        manifest = self.read(f"{name}/{MANIFEST}")
        if manifest is None:
            raise StateCorrupt(f"{self.url}/{name}: has no {MANIFEST}: it was never whole")
        for file in files_in(manifest):
            self.get(f"{name}/{file}", directory / file)
        (directory / MANIFEST).write_bytes(manifest)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    def _parent(self, name: str) -> str:
        return self._at(name).rpartition("/")[0]

    def _done(self, what: str, attempt: Callable[[], T], tries: int = 1) -> T:
        try:
            return attempt()
        except (RlserveError, FileNotFoundError):
            raise
        except Exception as error:  # of the storage's own kind, which differs between packages
            if tries <= 1:
                raise Unavailable(f"{self.url}: cannot {what}: {type(error).__name__}: {error}") from error
            logger.info("%s: cannot %s (%s); trying again", self.url, what, error)
        time.sleep(READ_PAUSE_SECONDS)
        return self._done(what, attempt, tries - 1)


def files_in(manifest: bytes) -> Mapping[str, Any]:
    """The files that a manifest lists. Raises StateCorrupt for a malformed one, or a path that leaves its folder."""
    try:
        files: Mapping[str, Any] = json.loads(manifest)["files"]
        paths = [Path(name) for name in files]
    except (ValueError, KeyError, TypeError) as error:
        raise StateCorrupt(f"{MANIFEST}: cannot be read: {error}") from None
    for path in paths:
        # It comes from a store that others may write, and names where files are put on this machine.
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise StateCorrupt(f"{MANIFEST}: names {str(path)!r}, which is not inside its folder")
    return files
