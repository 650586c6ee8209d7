"""An inbox to try, and groups that answer its leases."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from groups import trajectory

from rlserve.actors.learner.border import AckDecision
from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.intake import InboxSettings
from rlserve.actors.learner.mixture import Ingredient
from rlserve.algorithms import registry
from rlserve.batching.filters import why_drop
from rlserve.config.algorithms import GrpoConfig
from rlserve.records import RolloutGroup, Task
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.store.base import GroupCounts
from rlserve.store.sqlite import SqliteStore

GRPO = registry.create(GrpoConfig())


def settings(**changes: Any) -> InboxSettings:
    defaults = InboxSettings(
        run_id="run",
        seed=3,
        ingredients=(Ingredient("arithmetic", "train", 1.0),),
        num_samples=2,
        max_outstanding=8,
        max_lag=2,
        lease_seconds=30.0,
        tokenizer_fingerprint="tok",
        grace_seconds=0.2,
    )
    return replace(defaults, **changes)


def make_inbox(path: Path, *, version: int = 0, on_received: Any = None, keep: Any = None, **changes: Any) -> Inbox:
    """On the store at ``path``, new or not; drops what GRPO cannot learn from."""
    return Inbox(
        SqliteStore(path),
        settings(**changes),
        keep=keep or (lambda group: why_drop(group, GRPO)),
        decode=codec.group_from_bytes,
        version=version,
        on_received=on_received,
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
            trajectory(sampled, reward, member=member, spans=spans, seed=lease.index)
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


def offer(inbox: Inbox, group: RolloutGroup, **options: Any) -> AckDecision:
    return inbox.offer(group, codec.group_to_bytes(group), **options)


def deliver(inbox: Inbox, leases: Sequence[Lease], **options: Any) -> list[str]:
    """Offer the answers to ``leases``; the statuses of their acks."""
    return [str(offer(inbox, answer(lease, **options)).status) for lease in leases]


def counts(received: int, *, consumed: int = 0, queued: int = 0, **dropped: int) -> GroupCounts:
    return GroupCounts(received=received, consumed=consumed, queued=queued, dropped=dropped)
