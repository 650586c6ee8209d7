"""Flat weight files of one process: in shared memory while it has room, else in the run directory.

A version that does not fit goes to the second place, and later ones go there at once. A file that serves no version any
more is kept for the next one, which is written over its pages: new ones would have to be cleared by the kernel first.
"""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

from rlserve.errors import LimitExceeded
from rlserve.weight_sync.mapped_file import Bytes, MappedFile
from rlserve.weight_sync.own_directory import OwnDirectory

logger = logging.getLogger(__name__)

COPIES = 3
"""Versions on the disk at once: two that are kept, and one that is being written."""
# EDQUOT: the user's quota. EFBIG: the limit on the size of a file, of the process or of the file system.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still write there; 0 without permission to write."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return 0
    found = os.statvfs(directory)
    # f_bavail, not f_bfree: the rest is reserved for root.
    return found.f_bavail * found.f_frsize


class WeightFiles:
    """Creates and removes flat files, each named by its version. For one thread at a time.

    For example::

        files = WeightFiles(Path("/dev/shm"), fallback=run_directory)
        file = files.create(7, size_bytes=2**30)      # all its room is taken
        file.content[:] = ...
        files.retire(file, weakref.ref(reader))       # create(10, 2**30) may return it
        files.close()
    """

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
        self._retired: tuple[MappedFile, Callable[[], object | None]] | None = None

    def create(self, version: int, size_bytes: int) -> MappedFile:
        """A file of this size to write the version to. Raises LimitExceeded, with the bytes needed and free."""
        return self._reused(version, size_bytes) or self._made(version, size_bytes)

    def write(self, version: int, content: Bytes) -> MappedFile:
        """A file with these bytes. Raises LimitExceeded."""
        file = self.create(version, content.size)
        file.content[:] = content
        return file

    def link(self, version: int, source: Path, size_bytes: int) -> MappedFile:
        """A file with the pages of this one. Raises OSError where that does not work."""
        self._choose(size_bytes)
        self._count += 1
        return MappedFile(self._place(), _name(version, self._count), size_bytes, source=source)

    def prepare(self, size_bytes: int) -> MappedFile | None:
        """Make a file for the next version ahead of it, unless one is kept or it would take the last room."""
        if self._retired is not None or free_bytes(self._places[0]) < size_bytes:
            return None
        spare = self._made(None, size_bytes)
        self._retired = spare, _nobody
        return spare

    def retire(self, file: MappedFile, reader: Callable[[], object | None]) -> None:
        """The file serves no version any more; it may be written again when ``reader``, a weak reference, is gone."""
        if self._retired is not None:
            self._retired[0].discard()
        self._retired = file, reader

    def close(self) -> None:
        """Remove all files and directories."""
        self._retired = None
        own, self._own = self._own, {}
        for directory in own.values():
            directory.close()

    def _reused(self, version: int, size_bytes: int) -> MappedFile | None:
        if self._retired is None:
            return None
        (file, reader), self._retired = self._retired, None
        self._count += 1
        if file.size == size_bytes and reader() is None and file.take_over(_name(version, self._count)):
            return file
        file.discard()
        return None

    def _made(self, version: int | None, size_bytes: int) -> MappedFile:
        self._choose(size_bytes)
        own = self._place()
        while True:
            self._count += 1
            try:
                return MappedFile(own, _name(version, self._count), size_bytes)
            except FileExistsError:  # of another process: leave it alone, take the next name
                continue
            except FileNotFoundError:  # a cleaner of shared memory, e.g. logind's RemoveIPC at a logout
                self._own.pop(own.path.parent).close()
                self._warn(f"weights: {own.path} was removed by another process; weights go through a new one")
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._give_up_place(version, size_bytes, error)
            own = self._place()

    def _choose(self, size_bytes: int) -> None:
        """Leave the first place when it has no room for all copies. Decided once, before the first file."""
        if self._own or len(self._places) == 1:
            return
        need, free = COPIES * size_bytes, free_bytes(self._places[0])
        if free == 0 or free < need:
            self._leave(f"{need} bytes for {COPIES} versions are needed and {free} are free")

    def _give_up_place(self, version: int | None, need: int, error: OSError) -> None:
        free = free_bytes(self._places[0])
        if len(self._places) == 1:
            raise LimitExceeded(
                f"weights of version {version}: need {need} bytes, and {free} are free in {self._places[0]} (for "
                f"{COPIES} versions at once: {COPIES * need}); make room there and continue from the last checkpoint "
                "with --resume"
            ) from error
        self._leave(f"version {version} needs {need} bytes and {free} were free")

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


def _nobody() -> None:
    """The reader of a file that never served a version."""


def _name(version: int | None, count: int) -> str:
    return f"spare-{count}" if version is None else f"v{version}-{count}"
