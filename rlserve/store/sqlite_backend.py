"""The SQLite file ``groups.sqlite`` in a run directory."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from rlserve.config.paths import RunPaths
from rlserve.store.base import Store, StoreProblem
from rlserve.store.sqlite import SqliteStore

JOURNALS = ("", "-wal", "-shm")
"""Suffixes that SQLite appends to a file's name; a journal must not outlive the file that it belongs to."""
HUB_FILE = "hub.json"
"""Beside the store: the hub is another process, and a file of its own needs no lock."""


class SqliteBackend:
    """The :class:`rlserve.store.base.StoreBackend` of SQLite files."""

    is_remote = False

    def __init__(self, *, power_safe: bool = False) -> None:
        """``power_safe`` waits for the disk at every commit: slower, and nothing is lost when the power fails."""
        self._power_safe = power_safe

    def place(self, paths: RunPaths) -> str:
        return str(paths.store)

    def exists(self, paths: RunPaths) -> bool:
        return paths.store.exists()

    def problems(self, paths: RunPaths) -> Iterable[StoreProblem]:
        return ()

    def open(self, paths: RunPaths) -> Store:
        return SqliteStore(paths.store, power_safe=self._power_safe)

    def peek(self, paths: RunPaths, key: str) -> str | None:
        if not paths.store.exists():
            return None
        with contextlib.suppress(sqlite3.Error):
            # Read-only: a look before a start must neither create tables nor lock out the learner.
            with contextlib.closing(sqlite3.connect(f"file:{paths.store.resolve()}?mode=ro", uri=True)) as reader:
                row = reader.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row[0])
        return None

    def put_back(self, copy: Path, paths: RunPaths) -> str:
        for journal in JOURNALS:
            present = Path(f"{paths.store}{journal}")
            if present.exists():
                present.rename(Path(f"{paths.store}.replaced{journal}"))
        partial = paths.store.with_suffix(".partial")
        shutil.copyfile(copy, partial)
        _sync(partial)
        # Renamed only when its bytes are on the disk: a crash leaves the old name missing or the new file whole.
        partial.rename(paths.store)
        _sync(paths.store.parent)
        return f"{paths.store}.replaced"

    def remember_hub(self, paths: RunPaths, memory: bytes) -> None:
        paths.root.mkdir(parents=True, exist_ok=True)
        partial = paths.root / f"{HUB_FILE}.partial"
        partial.write_bytes(memory)
        partial.rename(paths.root / HUB_FILE)

    def recall_hub(self, paths: RunPaths) -> bytes | None:
        file = paths.root / HUB_FILE
        return file.read_bytes() if file.exists() else None

    def remove(self, paths: RunPaths) -> None:
        (paths.root / HUB_FILE).unlink(missing_ok=True)
        for journal in JOURNALS:
            Path(f"{paths.store}{journal}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
