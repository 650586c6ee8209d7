"""An inbox to try, and groups that answer its leases."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlserve.actors.learner.ingest.admission import Decision, Offer
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.algorithms import registry
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.records import RolloutGroup, Task, Trajectory
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.store.base import GroupCounts
from rlserve.store.sqlite import SqliteStore
from tests.support.groups import trajectory

GRPO = registry.create(GrpoConfig())


def settings(**changes: Any) -> InboxSettings:
    defaults = InboxSettings(
        run_id="run",
        seed=3,
        mixture=(MixtureEntry("arithmetic", "train", 1.0),),
        num_samples=2,
        max_outstanding=8,
        max_lag=2,
        lease_seconds=30.0,
        tokenizer_fingerprint="tok",
        grace_seconds=0.2,
    )
    return replace(defaults, **changes)


def make_inbox(
    path: Path,
    *,
    version: int = 0,
    observers: Sequence[Any] = (),
    drops: Any = None,
    warn: Any = lambda message, **fields: None,
    clock: Any = time.monotonic,
    **changes: Any,
) -> Inbox:
    """On the store at ``path``, new or not; drops what GRPO cannot learn from."""
    return Inbox(
        SqliteStore(path),
        settings(**changes),
        why_drop=drops or (lambda group: why_drop(group, GRPO)),
        version=version,
        observers=observers,
        warn=warn,
        clock=clock,
    )


def answer(
    lease: Lease,
    *,
    spans: Sequence[tuple[int, int]] = ((0, 4),),
    rewards: Sequence[float | None] = (1.0, 0.0),
    worker_id: str = "w",
) -> RolloutGroup:
    """The group that ``lease`` asks for; every sample has tokens of the versions in ``spans``."""
    sampled = sum(length for _, length in spans)
    return RolloutGroup(
        group_id=lease.group_id,
        task=Task(
            environment=lease.environment,
            split=lease.split,
            index=lease.index,
            task_id=f"{lease.environment}:{lease.index}",
            prompt=(1, 2, 3),
            verifier="exact",
            payload=b"",
        ),
        trajectories=tuple(
            replace(trajectory(sampled, reward, member=member, spans=spans, seed=lease.index), seed=lease.seed + member)
            for member, reward in enumerate(rewards)
        ),
        worker_id=worker_id,
        tokenizer_fingerprint="tok",
        run_id="run",
        purpose=lease.purpose,
    )


def lease_out(inbox: Inbox, worker_id: str = "w", capacity: int = 8) -> list[Lease]:
    """The leases that a worker gets which holds none."""
    inbox.join(worker_id, capacity=capacity)
    return inbox.grant().get(worker_id, [])


def nonce_of(inbox: Inbox, group_id: str, worker_id: str) -> str:
    """The worker's proof that it holds the lease, or once did."""
    entry = inbox._leases._entries.get(group_id)
    if entry is not None and entry.holder == worker_id:
        return entry.nonce
    return inbox._source.nonces.make(group_id, worker_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed(Offer):
    """An offer whose payload is not checked: what a check that errs would let pass."""

    known: RolloutGroup

    def group(self, limits: GroupLimits) -> RolloutGroup:
        return self.known


def offer(
    inbox: Inbox,
    group: RolloutGroup,
    *,
    payload: bytes | None = None,
    worker_id: str = "",
    nonce: str | None = None,
    believed: bool = False,
) -> Decision:
    """Offer a group as the worker that made it, which has the nonce of its lease."""
    sender = worker_id or group.worker_id
    kind: Any = functools.partial(Believed, known=group) if believed else Offer
    sent = kind(
        group_id=group.group_id,
        nonce=nonce_of(inbox, group.group_id, sender) if nonce is None else nonce,
        worker_id=sender,
        payload=codec.group_to_bytes(group) if payload is None else payload,
    )
    return inbox.offer_many([sent])[0]


def deliver(inbox: Inbox, leases: Sequence[Lease], **options: Any) -> list[str]:
    """Offer the answers to ``leases``; the statuses of their acks."""
    return [str(offer(inbox, answer(lease, **options)).status) for lease in leases]


def counts(received: int, *, consumed: int = 0, queued: int = 0, **dropped: int) -> GroupCounts:
    return GroupCounts(received=received, consumed=consumed, queued=queued, dropped=dropped)


def ids(groups: list[RolloutGroup]) -> list[str]:
    return [group.group_id for group in groups]


def each(group: RolloutGroup, **changes: Any) -> tuple[Trajectory, ...]:
    return tuple(replace(trajectory, **changes) for trajectory in group.trajectories)


def return_lease(inbox: Inbox, lease: Lease, reason: str, worker_id: str = "w") -> None:
    nonce = nonce_of(inbox, lease.group_id, worker_id)
    inbox.return_lease(lease.group_id, worker_id=worker_id, nonce=nonce, reason=reason)


def train(inbox: Inbox, step: int, n: int) -> list[str]:
    """One step of a learner."""
    taken = ids(inbox.queue.take(n, deadline_seconds=1))
    inbox.queue.commit(step, taken)
    inbox.queue.published(step)
    return taken
