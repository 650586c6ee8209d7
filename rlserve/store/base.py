"""The contract of every store: it keeps the groups of a run, each in exactly one state.

A group is queued, then consumed by one step or dropped for one reason; it may also be dropped on arrival.
``received == consumed + queued + sum(dropped)`` holds between any two calls, across crashes of the process. Groups of
an evaluation are not stored: they are measured once, and a measurement that crashed starts again.

A *rejected* group (malformed, unknown) is not received: it is counted separately, by reason, and its lease is granted
again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlserve.config.paths import RunPaths
from rlserve.errors import StateCorrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """Facts about a group, which stay after its payload is deleted."""

    group_id: str
    worker_id: str = ""
    """The worker that produced it; empty for a task that no worker can sample."""
    environment: str = ""
    oldest_version: int = 0
    """Oldest policy version that sampled any of its tokens."""
    num_samples: int = 0
    reward_mean: float | None = None
    """Mean reward of the samples with a verdict; None without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A received group: to be queued with its payload, or dropped on arrival for a reason."""

    info: GroupInfo
    payload: bytes = b""
    dropped: str = ""
    """The reason to drop it; empty to queue it."""


@dataclass(frozen=True, slots=True)
class QueuedGroup:
    """A group that waits for training."""

    group_id: str
    payload: bytes
    """The bytes as received; opaque to the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """The number of groups received so far, and of groups in each state."""

    received: int
    consumed: int
    queued: int
    dropped: Mapping[str, int]
    """Number of dropped groups by reason."""

    def __post_init__(self) -> None:
        placed = self.consumed + self.queued + sum(self.dropped.values())
        if self.received != placed:
            raise StateCorrupt(
                f"store: received {self.received} groups, but consumed {self.consumed} + queued {self.queued} + "
                f"dropped {dict(self.dropped)} make {placed}; go back to a checkpoint whose store is whole"
            )


@dataclass(frozen=True, slots=True)
class StoreMark:
    """Ties a checkpoint to the store beside which it was written."""

    store_id: str
    """Random id of the store, drawn when it was created; copies keep it."""
    sequence: int
    """Number of marks made so far, one for each checkpoint: a store with a smaller one is older than the checkpoint."""


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """What is wrong with the server or the disk of a store."""

    message: str
    """``"key: what it was; what to do"``."""
    is_fault: bool = True
    """True: groups would be lost, or no run can work. False: a warning."""


class Store(Protocol):
    """Every call is one transaction and safe to repeat; calls may come from several threads.

    When a call returns, its effect survives the end of the process (a kill -9). Whether it survives a power failure
    depends on the implementation, whose docstring states it. The life of three groups::

        store.receive(GroupInfo(group_id="a"), b"...")     # True; a second time False, and nothing changes
        store.receive(GroupInfo(group_id="b"), b"...")
        store.receive_dropped(GroupInfo(group_id="c"), "stale")
        store.consume(["a"], step=1)
        store.counts()         # received 3 = consumed 1 + queued 1 + dropped {"stale": 1}
        store.checkpoint(1)    # the payload of "a" is deleted
        store.consume(["b"], step=2)
        # The process is killed, and training resumes from the checkpoint of step 1:
        store.rollback(1)      # "b" is queued again
    """

    def receive(self, info: GroupInfo, payload: bytes) -> bool:
        """Queue a group. False, and no change, when its id is known already."""
        ...

    def receive_dropped(self, info: GroupInfo, reason: str) -> bool:
        """Count a group as received and dropped at once, without its payload. False when its id is known."""
        ...

    def receive_many(self, receipts: Sequence[Receipt], *, rejected: Mapping[str, int]) -> list[bool]:
        """Receive groups, and count rejections by reason, in one transaction.

        Returns for each receipt the result of ``receive`` or ``receive_dropped``.
        """
        ...

    def knows(self, group_id: str) -> bool:
        """Whether the group was received, in whatever state it is now."""
        ...

    def consume(self, group_ids: Sequence[str], *, step: int) -> None:
        """Record that ``step`` (which made policy version ``step``) trained on the groups.

        Raises StateCorrupt, and changes nothing, when one is not queued (unless the same step consumed it).
        """
        ...

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        """Take the groups out of the queue, untrained, while ``step`` is prepared; None makes it final for any
        rollback.

        Raises StateCorrupt, and changes nothing, when one is not queued (unless dropped by the same call).
        """
        ...

    def queued(self, limit: int | None = None) -> list[QueuedGroup]:
        """The first ``limit`` queued groups in order of arrival."""
        ...

    def counts(self) -> GroupCounts:
        """The numbers of groups in each state. Raises StateCorrupt when they do not add up."""
        ...

    def reject(self, reason: str) -> None:
        """Count a rejected group."""
        ...

    def rejections(self) -> Mapping[str, int]:
        """The number of rejections by reason, since the start of the run."""
        ...

    def checkpoint(self, step: int) -> None:
        """Delete payloads of groups that left the queue up to ``step``, and flush everything to disk.

        Call it with the oldest checkpoint that is kept: a rollback to an earlier step is impossible afterwards.
        """
        ...

    def rollback(self, step: int) -> None:
        """Queue groups that left the queue after ``step`` again, in the old order, so that training resumes there.

        Groups that were dropped on arrival or finally stay dropped. Raises StateCorrupt, and changes nothing, when a
        payload was deleted by a later checkpoint.
        """
        ...

    def set_cursor(self, cursor: str) -> None:
        """Keep the position of the lease source; the text is opaque to the store. A rollback does not change it."""
        ...

    def cursor(self) -> str | None:
        """The last cursor set; None before the first."""
        ...

    def remember(self, key: str, value: str) -> None:
        """Keep a fact about the run; a rollback does not change it."""
        ...

    def recall(self, key: str) -> str | None:
        """The latest fact under ``key``; None before the first."""
        ...

    def mark(self) -> StoreMark:
        """Make the mark of a checkpoint that is about to be written, with the next sequence number."""
        ...

    def marked(self) -> StoreMark:
        """The latest mark; its sequence is 0 before the first."""
        ...

    def copy_to(self, path: Path, *, step: int) -> None:
        """Write a copy of this store to ``path``, from which training can resume at ``step`` or later.

        Groups that left the queue by then have no payload in it. Other threads may use the store meanwhile.
        """
        ...

    def close(self) -> None:
        """Release the resources; the store can be opened again."""
        ...


class StoreBackend(Protocol):
    """Finds, opens and restores the store of a run; each ``[store] type`` has a class.

    It is constructed as ``cls(**options)`` from ``[store] options``.
    """

    is_remote: bool
    """Whether the store is a server of its own, which may be away for a while: calls that raise Unavailable are then
    repeated."""

    def place(self, paths: RunPaths) -> str:
        """Place of this run's store, for messages."""
        ...

    def exists(self, paths: RunPaths) -> bool:
        """Whether a store exists there, complete or not."""
        ...

    def problems(self, paths: RunPaths) -> Iterable[StoreProblem]:
        """What would lose groups or keep a run from working, within five seconds; nothing is changed."""
        ...

    def open(self, paths: RunPaths) -> Store:
        """Open the store, or make an empty one. Raises StateCorrupt when the existing one cannot be read."""
        ...

    def peek(self, paths: RunPaths, key: str) -> str | None:
        """The result of ``recall(key)``, without opening the store for writing; None when it cannot be read."""
        ...

    def put_back(self, copy: Path, paths: RunPaths) -> str:
        """Replace the store, whatever its state, by one that ``Store.copy_to`` wrote.

        Returns where the old one is kept. A crash leaves no store, the old one or the whole copy.
        """
        ...

    def remember_hub(self, paths: RunPaths, memory: bytes) -> None:
        """Keep what the run's hub must know after a restart, in the place of what it kept before."""
        ...

    def recall_hub(self, paths: RunPaths) -> bytes | None:
        """What ``remember_hub`` kept last; None before the first."""
        ...

    def remove(self, paths: RunPaths) -> None:
        """Delete the store, if there is one. Raises InvalidRequest when it is of a run in another directory."""
        ...
