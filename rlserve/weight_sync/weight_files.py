"""Flat weight files of one process: in shared memory while it has room, else in the run directory.

A version that does not fit is moved to the second place while it is written, and later ones are written there at once.
A file that was not finished is removed.
"""

import errno
import logging
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np

from rlserve.errors import LimitExceeded
from rlserve.weight_sync.manifest import Bytes
from rlserve.weight_sync.own_directory import OwnDirectory

logger = logging.getLogger(__name__)

COPIES = 3
"""Versions on the disk at once: two that are kept, and one that is being written."""
COPY_BYTES = 2**24
"""Read at once while a file is moved; any value of some megabytes will do."""
# EDQUOT: the user's quota. EFBIG: the limit on the size of a file, of the process or of the file system.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still write there; 0 without permission to write."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return 0
    found = os.statvfs(directory)
    # f_bavail, not f_bfree: the rest is reserved for root.
    return found.f_bavail * found.f_frsize


def mapped(file: IO[bytes]) -> Bytes:
    """The whole file as an array, mapped."""
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


class WeightFiles:
    """Creates and removes flat files, each named by its version. For one thread at a time."""

    def __init__(
        self, directory: Path, *, fallback: Path | None = None, warn: Callable[[str], object] = logger.warning
    ) -> None:
        """Files go to ``directory`` when it has room for ``COPIES`` versions, to ``fallback`` otherwise.

        ``warn`` gets a message when they go elsewhere than expected, with the reason.
        """
        self._places = [directory] if fallback is None or fallback == directory else [directory, fallback]
        self._warn = warn
        self._own: dict[Path, OwnDirectory] = {}
        self._count = 0

    def write(
        self, version: int, parts: Iterable[memoryview], *, size_bytes: int | None = None
    ) -> tuple[Path, IO[bytes]]:
        """Write ``parts`` one after the other; returns the file's path, and the file opened for reading.

        ``size_bytes`` is the sum of the parts, where it is known in advance. Raises LimitExceeded, with the bytes that
        are needed and free, when no place has room.
        """
        self._choose(size_bytes)
        file = self._new(version)
        try:
            for part in parts:
                file = self._append(file, part, version, size_bytes)
        except BaseException:
            file.discard()
            raise
        return file.path, file.opened()

    def remove(self, path: Path) -> None:
        """Remove a file that :meth:`write` made, if it still exists."""
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all files and directories."""
        own, self._own = self._own, {}
        for directory in own.values():
            directory.close()

    def _choose(self, size_bytes: int | None) -> None:
        """Leave the first place when it has no room for all copies. Decided once, before the first file."""
        if self._own or len(self._places) == 1:
            return
        need, free = COPIES * (size_bytes or 0), free_bytes(self._places[0])
        if free == 0 or free < need:
            self._leave(f"{need} bytes for {COPIES} versions are needed and {free} are free")

    def _leave(self, reason: str) -> None:
        left = self._places.pop(0)
        self._warn(
            f"weights: {left} has no room for them ({reason}); they go through {self._places[0]}, which is slower on a "
            f"disk. Give {left} more space (a container: --shm-size) to change that"
        )

    def _place(self) -> OwnDirectory:
        place = self._places[0]
        if place not in self._own:
            try:
                self._own[place] = OwnDirectory.below(place)
            except OSError as error:
                raise LimitExceeded(f"weights: no directory can be made in {place} ({error})") from error
        return self._own[place]

    def _new(self, version: int) -> "_File":
        own = self._place()
        while True:
            self._count += 1
            try:
                return _File(own, f"v{version}-{self._count}")
            except FileExistsError:  # of another process: leave it alone, take the next name
                continue
            except FileNotFoundError:  # a cleaner of shared memory, e.g. logind's RemoveIPC at a logout
                self._own.pop(own.path.parent).close()
                self._warn(f"weights: {own.path} was removed by another process; weights go through a new one")
                own = self._place()

    def _append(self, file: "_File", part: memoryview, version: int, size_bytes: int | None) -> "_File":
        try:
            file.append(part)
            return file
        except OSError as error:
            if error.errno not in _FULL:
                raise
            need = max(size_bytes or 0, file.size + len(part))
            free = free_bytes(self._places[0])
            if len(self._places) == 1:
                raise LimitExceeded(
                    f"weights of version {version}: need {need} bytes, and {free + file.size} are free in "
                    f"{self._places[0]} (for {COPIES} versions at once: {COPIES * need}); make room there and "
                    "continue from the last checkpoint with --resume"
                ) from error
            self._leave(f"version {version} needs {need} bytes and {free + file.size} were free")
            moved = self._new(version)
            try:
                file.copy_to(moved)
            except BaseException:
                moved.discard()
                raise
            file.discard()
            return self._append(moved, part, version, size_bytes)


class _File:
    """A file that is written part by part."""

    def __init__(self, own: OwnDirectory, name: str) -> None:
        self._own = own
        self._name = name
        self._descriptor = own.create(name)
        self.path = own.path / name
        self.size = 0
        """Bytes of the parts that are written in full."""

    def append(self, part: memoryview) -> None:
        rest = part
        # A write may be partial: Linux transfers at most 2 GiB per call.
        while len(rest):
            rest = rest[os.pwrite(self._descriptor, rest, self.size + len(part) - len(rest)) :]
        # Whole parts alone: when the disk fills up within one, copy_to moves those before it, and it is written again.
        self.size += len(part)

    def copy_to(self, other: "_File") -> None:
        while other.size < self.size:
            data = os.pread(self._descriptor, min(COPY_BYTES, self.size - other.size), other.size)
            if not data:
                raise OSError(errno.EIO, "was truncated while it was read", str(self.path))
            other.append(memoryview(data))

    def opened(self) -> IO[bytes]:
        """The file to read from, valid also after its name is removed; it closes with its last reference."""
        return os.fdopen(self._descriptor, "rb")

    def discard(self) -> None:
        """Close and remove it."""
        os.close(self._descriptor)
        self._own.remove(self._name)
