"""A directory that one living process owns, inside one that many processes share (such as ``/dev/shm``).

It has a random name, mode 0700, and a lock file on which its owner holds a flock as long as it lives. A process that
gets the lock may remove the directory: its owner is dead. A process id would not prove that, because ids differ between
the pid namespaces that share the directory (containers with ``--ipc=host``).

For example::

    own = OwnDirectory.below(Path("/dev/shm"))     # also removes the directories of dead owners
    descriptor = own.create("v7-1")                # write the file through it
    own.close()                                    # removes the directory and its files
"""

import contextlib
import fcntl
import logging
import os
import shutil
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "rlserve-weights"
LOCK = "lock"
ATTEMPTS = 8
"""A cleaner can take a new directory between its creation and its lock; any number above two will do."""


class OwnDirectory:
    """Created by :meth:`below`, removed by :meth:`close` or, after its owner's death, by the next ``below``."""

    def __init__(self, path: Path, directory: int, lock: int) -> None:
        """Called by :meth:`below` only."""
        self.path = path
        self._directory = directory
        self._lock = lock

    @classmethod
    def below(cls, parent: Path, prefix: str = PREFIX) -> "OwnDirectory":
        """A new directory in ``parent``; those of dead processes are removed first. Raises OSError."""
        remove_leftovers(parent, prefix)
        for _ in range(ATTEMPTS):
            if (made := cls._attempt(parent / f"{prefix}-{uuid.uuid4().hex[:16]}")) is not None:
                return made
        raise OSError(f"{str(parent)!r}: {ATTEMPTS} new directories were removed at once by another process")

    @classmethod
    def _attempt(cls, path: Path) -> "OwnDirectory | None":
        """None when a cleaner removed the directory between its creation and its lock."""
        os.mkdir(path, 0o700)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        # OSError: a cleaner created the lock file or removed the directory in between.
        with contextlib.suppress(OSError):
            lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
            # The lock file is unlinked, or the directory gone, when a cleaner held the lock before this process did.
            if _take(lock) and os.fstat(lock).st_nlink and path.is_dir():
                return cls(path, directory, lock)
            os.close(lock)
        os.close(directory)
        return None

    def create(self, name: str) -> int:
        """A descriptor for a new file, mode 0600, to write and read. Raises FileExistsError; follows no link."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self._directory)

    def link(self, source: Path, name: str) -> int:
        """A descriptor for another file of this file system, which gets a name here too. Raises FileExistsError."""
        os.link(source, name, dst_dir_fd=self._directory, follow_symlinks=False)
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=self._directory)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name. Raises FileExistsError, OSError where the file system has no links."""
        # Not ``os.rename``, which would replace a file of the new name.
        os.link(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory, follow_symlinks=False)
        os.unlink(old, dir_fd=self._directory)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def close(self) -> None:
        """Remove the directory and all that is in it."""
        _empty(self._directory)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
        os.close(self._lock)
        os.close(self._directory)


def remove_leftovers(parent: Path, prefix: str = PREFIX) -> None:
    """Remove the directories of dead processes, which were killed before they could do it."""
    for path in parent.glob(f"{prefix}-*"):
        try:
            if _remove_if_dead(path):
                logger.info("removed %s, left behind by a dead process", path.name)
        except OSError:  # owned by another user, of another kind, or gone meanwhile
            continue


def _remove_if_dead(path: Path) -> bool:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # A directory that another user made under this prefix is left alone.
        if os.fstat(directory).st_uid != os.geteuid():
            return False
        # O_CREAT: a process that was killed between its mkdir and its lock left no lock file.
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
        # The kernel releases it when its owner dies, whatever killed it.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _empty(directory: int) -> None:
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
        except OSError:
            continue
