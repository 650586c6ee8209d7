"""A directory that one living process owns, below one that many share.

It has a random name, mode 0700, and a file on which its owner holds a lock (flock) for as long as it lives. Whoever
gets that lock knows that the owner is dead and may remove the directory. A process id would not say so: another pid
namespace that shares the directory (containers with ``--ipc=host``) knows other ids.
"""

import contextlib
import fcntl
import logging
import os
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "rlserve-weights"
LOCK = "lock"
ATTEMPTS = 8


class OwnDirectory:
    """Created by :meth:`below`, gone with :meth:`close`, or with its owner's death at the next start of another."""

    def __init__(self, path: Path, directory: int, lock: int) -> None:
        """For :meth:`below` alone."""
        self.path = path
        self._directory = directory
        self._lock = lock

    @classmethod
    def below(cls, parent: Path) -> "OwnDirectory":
        """A new one in ``parent``, after what dead processes left there is removed. Raises OSError."""
        remove_leftovers(parent)
        for _ in range(ATTEMPTS):
            if (made := cls._attempt(parent / f"{PREFIX}-{uuid.uuid4().hex[:16]}")) is not None:
                return made
        raise OSError(f"{str(parent)!r}: {ATTEMPTS} new directories were taken away at once by something else")

    @classmethod
    def _attempt(cls, path: Path) -> "OwnDirectory | None":
        """None when a cleaner came between the making and the lock, and took the directory for a leftover."""
        os.mkdir(path, 0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
            if _take(lock) and os.fstat(lock).st_nlink and path.is_dir():
                return cls(path, directory, lock)
            os.close(lock)
        os.close(directory)
        return None

    def create(self, name: str) -> int:
        """A descriptor to write and read a new file with, 0600. Raises FileExistsError; follows no link."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self._directory)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def close(self) -> None:
        """Remove the directory with all its files."""
        _empty(self._directory)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
        os.close(self._lock)
        os.close(self._directory)


def remove_leftovers(parent: Path) -> None:
    """Remove the directories of processes that no longer live (killed before they could)."""
    for path in parent.glob(f"{PREFIX}-*"):
        try:
            if _remove_if_dead(path):
                logger.info("removed %s, left behind by a dead process", path.name)
        except OSError:  # another user's, no directory of ours, or gone meanwhile
            continue


def _remove_if_dead(path: Path) -> bool:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(directory).st_uid != os.geteuid():
            return False
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            if not _take(lock):
                return False
            _empty(directory)
            os.rmdir(path)
            return True
        finally:
            os.close(lock)
    finally:
        os.close(directory)


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _empty(directory: int) -> None:
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
