"""What the book of leases keeps, and what it tells."""

import math
from dataclasses import dataclass, field

from rlserve.records import Purpose
from rlserve.records.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A lease that was taken from its worker."""

    lease: Lease
    worker_id: str
    abandoned: bool
    """True when it failed too often: it is settled, and nobody works on it again."""
    stage: str = ""
    """Where the worker last said that it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeases:
    """What one worker holds."""

    worker_id: str
    connected: bool
    capacity: int
    held: int
    oldest_seconds: float
    """Age of its oldest lease; 0 when it holds none."""
    still_seconds: float
    """For so long none of its leases has moved; 0 when it holds none."""
    stage: str
    """Where its oldest lease stands, in its own words."""
    returned_in_row: int
    """Leases that it gave back or let expire since it finished one."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One lease that is not settled."""

    lease: Lease
    order: int
    holder: str = ""
    since: float = 0.0
    deadline: float = math.inf
    not_before: float = -math.inf
    attempts: int = 0
    avoid: str = ""
    nonce: str = ""
    """Of the present grant; empty when nobody holds it."""
    tokens: int = 0
    steps: int = 0
    moved_at: float = 0.0
    stage: str = ""

    @property
    def rank(self) -> tuple[bool, int]:
        return self.lease.purpose is not Purpose.EVALUATE, self.order


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """One worker that is connected, or left a moment ago."""

    capacity: int
    left_at: float | None = None
    served: int = 0
    returned_in_row: int = 0
    held: dict[str, Entry] = field(default_factory=dict)
