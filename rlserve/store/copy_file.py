"""Copies of a store that is no SQLite file, as one: checkpoints hold the same copy whatever store a run has."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlserve.errors import StateCorrupt
from rlserve.store.base import GroupInfo
from rlserve.store.sqlite import create_tables

ROWS = 500
"""Rows written at a time; any number will do that is small in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGroup:
    """A group with its place in the store."""

    arrival: int
    info: GroupInfo
    state: str
    """queued, consumed or dropped."""
    reason: str = ""
    step: int | None = None
    """The step with which it left the queue; None while queued, dropped on arrival or dropped finally."""
    payload: bytes | None = None

    def needs_payload(self, step: int) -> bool:
        """Whether a run that resumes at ``step`` may train on it."""
        return self.state == "queued" or (self.step is not None and self.step > step)

    def with_payload(self, payload: bytes | None) -> "StoredGroup":
        """The same group with its payload."""
        return replace(self, payload=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopy:
    """A whole store."""

    groups: Iterable[StoredGroup]
    facts: Mapping[str, str]
    """What the run remembers; ``store_id`` and ``sequence`` among it."""
    rejections: Mapping[str, int]


def write_copy(path: Path, store: StoreCopy) -> None:
    """Write a store to ``path``; of several rows of one arrival the last counts."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("BEGIN")
        create_tables(copy)
        groups = iter(store.groups)
        while page := list(itertools.islice(groups, ROWS)):
            # REPLACE: a scan of groups that change meanwhile may meet one twice.
            copy.executemany(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [_row(group) for group in page]
            )
            copy.executemany(
                "INSERT OR REPLACE INTO payloads VALUES (?, ?)",
                [(group.arrival, group.payload) for group in page if group.payload is not None],
            )
        copy.execute("UPDATE totals SET total = (SELECT count(*) FROM groups) WHERE name = 'received'")
        copy.executemany("INSERT INTO rejections VALUES (?, ?)", store.rejections.items())
        copy.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", store.facts.items())
        copy.execute("COMMIT")


@contextlib.contextmanager
def reading_copy(path: Path) -> Iterator[StoreCopy]:
    """The store in ``path``; its groups can be read once. Raises StateCorrupt."""
    try:
        # Read-only: a file that is not there must not be made.
        with contextlib.closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)) as copy:
            yield StoreCopy(
                groups=(_group(row) for row in copy.execute("SELECT * FROM groups LEFT JOIN payloads USING (arrival)")),
                facts=dict(copy.execute("SELECT key, value FROM facts").fetchall()),
                rejections=dict(copy.execute("SELECT reason, total FROM rejections").fetchall()),
            )
    except sqlite3.DatabaseError as error:
        raise StateCorrupt(
            f"store: the copy {path} cannot be read ({error}); take that of another checkpoint"
        ) from error


def _row(group: StoredGroup) -> tuple[object, ...]:
    info = group.info
    return (
        group.arrival, info.group_id, group.state, group.reason, group.step, info.worker_id, info.environment,
        info.oldest_version, info.num_samples, info.reward_mean,
    )  # fmt: skip


def _group(row: tuple[Any, ...]) -> StoredGroup:
    arrival, group_id, state, reason, step, worker_id, environment, oldest_version, num_samples, mean, payload = row
    return StoredGroup(
        arrival=arrival,
        info=GroupInfo(
            group_id=group_id,
            worker_id=worker_id,
            environment=environment,
            oldest_version=oldest_version,
            num_samples=num_samples,
            reward_mean=mean,
        ),
        state=state,
        reason=reason,
        step=step,
        payload=payload,
    )
