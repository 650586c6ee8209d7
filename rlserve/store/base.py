"""The groups of a run, each in exactly one place: what every store promises.

A group is queued, then consumed by one step or dropped for one reason; it may also be dropped on arrival.
``received == consumed + queued + sum(dropped)`` holds between any two calls, across crashes of the process.
Groups of an evaluation are not kept here: they are measured once and a crashed measurement starts again.

What is *rejected* at the border (malformed, unknown) was never received: it is counted apart, by reason,
and its lease is worked on again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlserve.errors import StateCorrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """What is kept of a group after its payload is gone."""

    group_id: str
    worker_id: str = ""
    """Who made it; empty when nobody could."""
    environment: str = ""
    oldest_version: int = 0
    """Oldest policy version that sampled any of its tokens."""
    num_samples: int = 0
    reward_mean: float | None = None
    """Over the samples that have a verdict; None when none has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A group that came in: to be queued with its payload, or dropped on arrival for a reason."""

    info: GroupInfo
    payload: bytes = b""
    dropped: str = ""
    """Why; empty to queue it."""


@dataclass(frozen=True, slots=True)
class QueuedGroup:
    """A group that waits for training."""

    group_id: str
    payload: bytes
    """As it was received; opaque to the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """Where all groups received so far are."""

    received: int
    consumed: int
    queued: int
    dropped: Mapping[str, int]
    """By reason."""

    def __post_init__(self) -> None:
        placed = self.consumed + self.queued + sum(self.dropped.values())
        if self.received != placed:
            raise StateCorrupt(
                f"store: received {self.received} groups, but consumed {self.consumed} + queued {self.queued} + "
                f"dropped {dict(self.dropped)} make {placed}; go back to a checkpoint whose store is whole"
            )


@dataclass(frozen=True, slots=True)
class StoreMark:
    """Ties a checkpoint to the store that it was made beside."""

    store_id: str
    """Drawn when the store was made; its copies have it too."""
    sequence: int
    """Counts the checkpoints: a store of a smaller one is older than the checkpoint."""


class Store(Protocol):
    """Every call is one transaction and safe to repeat; calls may come from several threads.

    When a call returns, its effect outlives the process (a kill -9). Whether it outlives the machine's power
    is up to the implementation, which says so.
    """

    def receive(self, info: GroupInfo, payload: bytes) -> bool:
        """Queue a group. False when its id is known already: nothing changed then."""
        ...

    def receive_dropped(self, info: GroupInfo, reason: str) -> bool:
        """Count a group as received and dropped at once, without its payload. False when its id is known."""
        ...

    def receive_many(self, receipts: Sequence[Receipt], *, rejected: Mapping[str, int]) -> list[bool]:
        """Receive groups, and count refusals by reason, all in one transaction: all of it, or none.

        For each receipt what ``receive`` or ``receive_dropped`` would have said.
        """
        ...

    def knows(self, group_id: str) -> bool:
        """Whether the group was received, whatever became of it."""
        ...

    def consume(self, group_ids: Sequence[str], *, step: int) -> None:
        """The groups were trained on by ``step`` (which made policy version ``step``).

        Raises StateCorrupt, and changes nothing, when one is not queued (unless the same step consumed it).
        """
        ...

    def drop(self, group_ids: Sequence[str], reason: str, *, step: int | None) -> None:
        """The groups left the queue while ``step`` was prepared, untrained; None: for good, whatever is rolled back.

        Raises StateCorrupt, and changes nothing, when one is not queued (unless dropped by the same call).
        """
        ...

    def queued(self, limit: int | None = None) -> list[QueuedGroup]:
        """The first ``limit`` queued groups in order of arrival."""
        ...

    def counts(self) -> GroupCounts:
        """Where the groups are. Raises StateCorrupt when the numbers do not add up."""
        ...

    def reject(self, reason: str) -> None:
        """Count something that was refused at the border."""
        ...

    def rejections(self) -> Mapping[str, int]:
        """Refusals by reason since the start of the run."""
        ...

    def checkpoint(self, step: int) -> None:
        """Training will not go back before ``step``: payloads of what left the queue by then may go.

        Call it with the oldest checkpoint that is kept. Also flushes everything to disk.
        """
        ...

    def rollback(self, step: int) -> None:
        """Training resumes at ``step``: what left the queue after it is queued again, in the old order.

        What was dropped on arrival or for good stays dropped. Raises StateCorrupt, and changes nothing, when a payload
        is gone because a later step was checkpointed.
        """
        ...

    def set_cursor(self, cursor: str) -> None:
        """Remember which leases were issued; the text is opaque to the store. A rollback leaves it."""
        ...

    def cursor(self) -> str | None:
        """The last cursor set; None before the first."""
        ...

    def remember(self, key: str, value: str) -> None:
        """Keep a fact about the run; a rollback leaves it."""
        ...

    def recall(self, key: str) -> str | None:
        """The fact remembered last under ``key``; None before the first."""
        ...

    def mark(self) -> StoreMark:
        """Where the store is, for a checkpoint that is about to be written; each call counts one further."""
        ...

    def marked(self) -> StoreMark:
        """The last mark made; its sequence is 0 before the first."""
        ...

    def copy_to(self, path: Path, *, step: int) -> None:
        """Write a store to ``path`` that is as this one is now, to resume at ``step`` with and at no step before.

        What left the queue by then goes without its payload. Others may use the store meanwhile.
        """
        ...

    def close(self) -> None:
        """Let go of the resources; the store can be opened again."""
        ...
