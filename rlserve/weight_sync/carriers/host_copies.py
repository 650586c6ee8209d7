"""One fetch per host: a worker that has its turn fetches a version, and the others of its host and user take its copy.

A turn is a lock on a file that is named by the version's digest; the file then holds the path of the copy. The kernel
takes the lock from a worker that dies, so that the next one fetches; a worker whose fetch makes no progress is waited
for no longer than ``patience``. A copy is taken as a link of one's own: it stays when its maker removes it.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

POLL_SECONDS = 0.01
"""Between two looks whether the turn has come: little beside a swap of weights."""
PATH_BYTES = 4096
"""Longest path that Linux takes."""


class Turn:
    """A worker's turn with one version."""

    def __init__(self, entry: int | None = None, copy: Path | None = None) -> None:
        """Made by ``HostCopies.turn``; ``entry`` is None for a worker that goes on alone."""
        self._entry = entry
        self.offered = False
        self.copy = copy
        """The copy of another worker."""

    def progress(self) -> None:
        """The fetch goes on: the others wait on."""
        if self._entry is not None:
            os.utime(self._entry)

    def offer(self, path: Path) -> None:
        """The others may take this file."""
        if self._entry is not None:
            os.pwrite(self._entry, os.fsencode(path), 0)
            self.offered = True


class HostCopies:
    """What workers that give the same directory hold. Where that does not work, each fetches for itself.

    For example::

        copies = HostCopies(Path("/dev/shm"), patience=30)
        async with copies.turn(policy.digest) as turn:
            if turn.copy is None:
                ...                    # fetch, with turn.progress() now and then
                turn.offer(path)
        copies.close()
    """

    def __init__(self, parent: Path, *, patience: float) -> None:
        """``patience``: seconds without progress after which a fetch by another worker is not waited for."""
        self._directory = parent / f"rlserve-copies-{os.geteuid()}"
        self._patience = patience
        self._offered: set[str] = set()

    @contextlib.asynccontextmanager
    async def turn(self, digest: str) -> AsyncIterator[Turn]:
        """Waits until no other worker fetches this version."""
        try:
            entry = self._opened(digest)
        except OSError:  # a directory of somebody else, a full disk
            yield Turn()
            return
        try:
            if await self._locked(entry):
                os.utime(entry)
                text = os.pread(entry, PATH_BYTES, 0)
                copy = Path(os.fsdecode(text)) if text else None
                turn = Turn(entry, copy if copy is not None and copy.is_file() else None)
                yield turn
                if turn.offered:
                    self._remember(digest)
            else:
                yield Turn()
        finally:
            os.close(entry)  # which gives the lock back

    def close(self) -> None:
        """Remove this worker's entries, and the directory with the last one."""
        for name in self._offered:
            (self._directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    def _remember(self, digest: str) -> None:
        """For ``close``; and remove the entries whose copies are gone."""
        self._offered.add(digest)
        for path in list(self._directory.iterdir()):
            if path.name not in self._offered and _is_left(path):
                path.unlink(missing_ok=True)

    def _opened(self, digest: str) -> int:
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{self._directory} belongs to somebody else")
        return os.open(self._directory / digest, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    async def _locked(self, entry: int) -> bool:
        """Whether the turn came before the patience ended."""
        seen, since = os.fstat(entry).st_mtime_ns, time.monotonic()
        while not _take(entry):
            await asyncio.sleep(POLL_SECONDS)
            if (now := os.fstat(entry).st_mtime_ns) != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > self._patience:
                return False
        return True


def _take(entry: int) -> bool:
    try:
        fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_left(path: Path) -> bool:
    """Whether the entry's copy is gone, and no worker fetches it."""
    try:
        entry = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return _take(entry) and not Path(os.fsdecode(os.pread(entry, PATH_BYTES, 0))).is_file()
    finally:
        os.close(entry)
