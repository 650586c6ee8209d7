"""A flat file of fixed size, mapped into memory: written and read in place, by this process and by others.

All its room is taken when it is made, so that no write can find the disk full. Its pages may serve a later version
once no process reads them: who reads a file by its name holds a shared flock on it meanwhile (``reading``), and
``take_over`` asks for the lock alone. The kernel drops the locks of a process that dies.
"""

import contextlib
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rlserve.errors import Unavailable
from rlserve.weight_sync.device_memory import pin, unpin
from rlserve.weight_sync.own_directory import OwnDirectory

Bytes = npt.NDArray[np.uint8]


class MappedFile:
    """Made by ``WeightFiles``. Its bytes stay valid, for who holds this object, after its name is removed."""

    def __init__(self, own: OwnDirectory, name: str, size: int, *, source: Path | None = None) -> None:
        """``source``: another file whose pages it has, instead of new ones.

        Raises OSError when there is no room, the name is taken, or the source has another size or file system.
        """
        self._own = own
        self._name = name
        self.size = size
        descriptor = own.create(name) if source is None else own.link(source, name)
        # Closes with its last reference.
        self._file = os.fdopen(descriptor, "rb")
        try:
            if source is None:
                os.posix_fallocate(descriptor, 0, size)
            elif (found := os.fstat(descriptor).st_size) != size:
                raise OSError(f"{source} has {found} bytes, not {size}")
            # MAP_POPULATE: one pass over the page table now, instead of a fault for each page when it is written.
            pages = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            own.remove(name)
            raise
        self.content: Bytes = np.frombuffer(pages, dtype=np.uint8)
        """To be written before it is announced."""
        self.flat = self.content[:]
        """The same bytes, to be read."""
        self.flat.flags.writeable = False
        self._unpin: weakref.finalize[..., MappedFile] | None = None

    @property
    def path(self) -> Path:
        """Where other processes find it, as long as it has this name."""
        return self._own.path / self._name

    def pin(self) -> None:
        """Lock its pages for a GPU's copies, where the driver allows that; without, they are slower."""
        if self._unpin is None and pin(self.content):
            self._unpin = weakref.finalize(self, unpin, self.content)
            # At exit the driver frees everything, and may be gone already.
            self._unpin.atexit = False

    def check_whole(self) -> None:
        """Raises Unavailable when another process truncated the file: a read of the mapping would be a SIGBUS."""
        if (size := os.fstat(self._file.fileno()).st_size) != self.size:
            raise Unavailable(
                f"{self.path} was cut from {self.size} to {size} bytes by something else; the next version replaces it"
            )

    def read(self, start: int, size: int) -> bytes:
        """Bytes from ``start``; fewer than ``size`` at the end. Raises Unavailable when the file was truncated."""
        size = min(size, self.size - start)
        data = os.pread(self._file.fileno(), size, start)
        if len(data) != size:
            self.check_whole()
        return data

    def take_over(self, name: str) -> bool:
        """Give it another name, to be written again; False when somebody reads it, cut it or removed it."""
        if not self.lock_alone():
            return False
        try:
            state = os.fstat(self._file.fileno())
            if state.st_size != self.size or not state.st_nlink:
                return False
            self._own.rename(self._name, name)
        except OSError:  # a file system without links
            return False
        self._name = name
        return True

    def lock_alone(self) -> bool:
        """Keep readers out until ``release``; False when there is one, or the file system has no locks."""
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let others read it."""
        with contextlib.suppress(OSError):  # a file system without locks, where it was never taken over
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)

    def discard(self) -> None:
        """Remove its name."""
        self._own.remove(self._name)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Bytes]:
    """The bytes of another process's file, mapped, which it does not write over inside the block.

    Raises OSError when it cannot be opened, or is being written.
    """
    # O_NOFOLLOW, O_NONBLOCK: the path came over the wire, and may name a link or a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        size = os.fstat(descriptor).st_size
        # Private and writable, since torch has no tensors that may not be written. None is, so nothing is copied.
        # An empty file cannot be mapped.
        pages = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE) if size else b""
        yield np.frombuffer(pages, dtype=np.uint8)
    finally:
        os.close(descriptor)
