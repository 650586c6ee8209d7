"""The store in one SQLite file of the run directory: the default on one machine.

It uses a write-ahead log with ``synchronous=NORMAL``: when a call returns, the operating system has the commit, and a
killed process loses nothing. A power failure may lose the commits since the last ``checkpoint()``, which waits for the
disk; with ``power_safe=True`` every commit does.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlserve.errors import LimitExceeded, StateCorrupt, Unavailable
from rlserve.store.base import GroupCounts, GroupInfo, QueuedGroup, Receipt, StoreMark

SCHEMA_VERSION = 2
"""Raise it with every change of the schema below: a store of another version is refused."""
BUSY_SECONDS = 10.0
"""How long a call waits for another connection's lock. Any value will do that is longer than writing a copy of the
store takes; readers hold it for milliseconds."""

# ``step`` is set when a group leaves the queue; it is NULL for a group that was dropped on arrival or finally. Payloads
# have a table of their own, so that deleting one does not rewrite a row of ``groups`` and its indexes.
_SCHEMA = """
CREATE TABLE groups (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'consumed', 'dropped')),
    reason TEXT NOT NULL DEFAULT '' CHECK ((state = 'dropped') = (reason != '')),
    step INTEGER,
    worker_id TEXT NOT NULL,
    environment TEXT NOT NULL,
    oldest_version INTEGER NOT NULL,
    num_samples INTEGER NOT NULL,
    reward_mean REAL
);
CREATE INDEX groups_by_state ON groups (state, reason);
CREATE INDEX groups_by_step ON groups (step) WHERE step IS NOT NULL;
CREATE TABLE payloads (arrival INTEGER PRIMARY KEY REFERENCES groups, payload BLOB NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rejections (reason TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES ('received', 0);
INSERT INTO facts VALUES ('store_id', lower(hex(randomblob(16))));
INSERT INTO facts VALUES ('sequence', '0');
"""


class SqliteStore:
    """A :class:`rlserve.store.base.Store` in one file. One process at a time writes it; others may read it."""

    def __init__(self, path: Path, *, power_safe: bool = False) -> None:
        """Open or create the file. Raises StateCorrupt when it is not a store of this version."""
        self._path = path
        # One connection for all threads, and this lock around it: SQLite ties a transaction to its connection, so that
        # two threads would otherwise end up in one. Reentrant, since checkpoint() holds it around a transaction.
        self._lock = threading.RLock()
        # isolation_level None: the sqlite3 module then begins no transactions by itself.
        self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._translated():
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(f"PRAGMA synchronous={'FULL' if power_safe else 'NORMAL'}")
                self._create_or_check()
        except BaseException:
            self._db.close()
            raise

    def _create_or_check(self) -> None:
        with self._transaction():
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found == 0:
                create_tables(self._db)
            elif found != SCHEMA_VERSION:
                raise StateCorrupt(
                    f"store: {self._path.name} has format {found}, this version reads {SCHEMA_VERSION}; "
                    "start another run, or use the version that wrote it"
                )

    def receive(self, info: GroupInfo, payload: bytes) -> bool:
        return self.receive_many([Receipt(info=info, payload=payload)], rejected={})[0]

    def receive_dropped(self, info: GroupInfo, reason: str) -> bool:
        return self.receive_many([Receipt(info=info, dropped=reason)], rejected={})[0]

    def receive_many(self, receipts: Sequence[Receipt], *, rejected: Mapping[str, int]) -> list[bool]:
        with self._transaction():
            new = [self._receive(receipt) for receipt in receipts]
            # A counter of its own, so that counts() compares two independent numbers.
            self._db.execute("UPDATE totals SET total = total + ? WHERE name = 'received'", (sum(new),))
            self._db.executemany(
                "INSERT INTO rejections VALUES (?, ?) "
                "ON CONFLICT (reason) DO UPDATE SET total = total + excluded.total",
                rejected.items(),
            )
        return new

    def knows(self, group_id: str) -> bool:
        with self._reading():
            found = self._db.execute("SELECT 1 FROM groups WHERE group_id = ?", (group_id,))
            return found.fetchone() is not None

    def consume(self, group_ids: Sequence[str], *, step: int) -> None:
        self._leave_queue(group_ids, state="consumed", reason="", step=step)

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        self._leave_queue(group_ids, state="dropped", reason=reason, step=step)

    def queued(self, limit: int | None = None) -> list[QueuedGroup]:
        with self._reading():
            rows = self._db.execute(
                "SELECT group_id, payload FROM groups LEFT JOIN payloads USING (arrival) "
                "WHERE state = 'queued' ORDER BY arrival LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        for group_id, payload in rows:
            if payload is None:
                raise StateCorrupt(
                    f"store: the payload of queued group {group_id!r} is missing; resume from a checkpoint"
                )
        return [QueuedGroup(group_id, payload) for group_id, payload in rows]

    def counts(self) -> GroupCounts:
        with self._reading():
            received = self._db.execute("SELECT total FROM totals WHERE name = 'received'").fetchone()[0]
            rows = self._db.execute("SELECT state, reason, count(*) FROM groups GROUP BY state, reason").fetchall()
        totals = {(state, reason): number for state, reason, number in rows}
        return GroupCounts(
            received=received,
            consumed=totals.get(("consumed", ""), 0),
            queued=totals.get(("queued", ""), 0),
            dropped={reason: number for (state, reason), number in totals.items() if state == "dropped"},
        )

    def reject(self, reason: str) -> None:
        self.receive_many([], rejected={reason: 1})

    def rejections(self) -> Mapping[str, int]:
        with self._reading():
            return dict(self._db.execute("SELECT reason, total FROM rejections ORDER BY reason").fetchall())

    def checkpoint(self, step: int) -> None:
        with self._lock:
            with self._transaction():
                # Of groups that left the queue by then, or finally.
                self._db.execute(
                    "DELETE FROM payloads WHERE arrival IN (SELECT payloads.arrival FROM payloads JOIN groups "
                    "USING (arrival) WHERE step <= ? OR state = 'dropped' AND step IS NULL)",
                    (step,),
                )
            with self._translated():
                # Outside of the transaction, in which SQLite refuses it. It moves the log into the file and waits for
                # the disk; TRUNCATE also keeps the log from growing to the size of the largest burst.
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def rollback(self, step: int) -> None:
        with self._transaction():
            gone = self._db.execute(
                "SELECT count(*), max(step) FROM groups LEFT JOIN payloads USING (arrival) "
                "WHERE step > ? AND payload IS NULL",
                (step,),
            ).fetchone()
            if gone[0]:
                raise StateCorrupt(
                    f"store: {gone[0]} groups that left the queue after step {step} cannot be queued again, because "
                    f"step {gone[1]} was checkpointed since; resume from step {gone[1]} or later, or continue with a "
                    f"copy of the store: rlserve run --resume {self._path.parent} --restore-store"
                )
            self._db.execute("UPDATE groups SET state = 'queued', reason = '', step = NULL WHERE step > ?", (step,))

    def set_cursor(self, cursor: str) -> None:
        self.remember("cursor", cursor)

    def cursor(self) -> str | None:
        return self.recall("cursor")

    def remember(self, key: str, value: str) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def recall(self, key: str) -> str | None:
        with self._reading():
            row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def mark(self) -> StoreMark:
        with self._transaction():
            self._db.execute("UPDATE facts SET value = CAST(value + 1 AS TEXT) WHERE key = 'sequence'")
        return self.marked()

    def marked(self) -> StoreMark:
        with self._reading():
            facts = dict(self._db.execute("SELECT key, value FROM facts WHERE key IN ('store_id', 'sequence')"))
        return StoreMark(facts["store_id"], int(facts["sequence"]))

    def copy_to(self, path: Path, *, step: int) -> None:
        # Through a second connection and without the lock: reading the file with a connection of its own, the copy sees
        # one state of it, and the store stays usable. SQLite's backup API would copy payloads without further use.
        with self._translated(), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
            copy.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")
            copy.execute("ATTACH ? AS source", (str(self._path),))
            copy.execute("BEGIN")
            create_tables(copy)
            for table in ("groups", "totals", "rejections", "facts"):
                copy.execute(f"DELETE FROM main.{table}")
                copy.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")
            copy.execute(
                "INSERT INTO main.payloads SELECT payloads.* FROM source.payloads JOIN source.groups USING (arrival) "
                "WHERE state = 'queued' OR step > ?",
                (step,),
            )
            copy.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _receive(self, receipt: Receipt) -> bool:
        """Insert one receipt; False when its id is known."""
        info, dropped = receipt.info, receipt.dropped
        inserted = self._db.execute(
            "INSERT INTO groups (group_id, state, reason, worker_id, environment, oldest_version, num_samples, "
            "reward_mean) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (group_id) DO NOTHING",
            (
                info.group_id,
                "dropped" if dropped else "queued",
                dropped,
                info.worker_id,
                info.environment,
                info.oldest_version,
                info.num_samples,
                info.reward_mean,
            ),
        )
        if not inserted.rowcount:
            return False
        if not dropped:
            self._db.execute("INSERT INTO payloads VALUES (?, ?)", (inserted.lastrowid, receipt.payload))
        return True

    def _leave_queue(self, group_ids: Sequence[str], *, state: str, reason: str, step: int | None) -> None:
        with self._transaction():
            moved = self._db.executemany(
                "UPDATE groups SET state = ?, reason = ?, step = ? WHERE group_id = ? AND state = 'queued'",
                [(state, reason, step, group_id) for group_id in group_ids],
            )
            if moved.rowcount != len(group_ids):
                for group_id in group_ids:
                    self._check_left(group_id, (state, reason, step))

    def _check_left(self, group_id: str, wanted: tuple[str, str, int | None]) -> None:
        row = self._db.execute("SELECT state, reason, step FROM groups WHERE group_id = ?", (group_id,)).fetchone()
        if row is None:
            raise StateCorrupt(f"store: group {group_id!r} was never received, so it cannot be {wanted[0]}")
        if tuple(row) != wanted:
            raise StateCorrupt(f"store: group {group_id!r} is {row[0]} (step {row[2]}), so it cannot be {wanted[0]}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._translated():
            # IMMEDIATE takes the write lock at once: a transaction that reads first could fail to get it later, and
            # SQLite does not wait then (it would be a deadlock between two readers).
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite rolled back by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._translated():
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise LimitExceeded(f"store: the disk of {self._path.name} is full; make room and resume") from error
            raise Unavailable(
                f"store: {self._path.name} cannot be used ({error}); is another process on it?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StateCorrupt(
                f"store: {self._path.name} is damaged ({error}); continue with the copy in the newest checkpoint: "
                f"rlserve run --resume {self._path.parent} --restore-store"
            ) from error


def create_tables(db: sqlite3.Connection) -> None:
    """Create the tables in the open transaction."""
    for statement in _SCHEMA.split(";"):  # executescript() would commit the transaction first
        db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
