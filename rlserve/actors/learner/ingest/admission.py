"""Admission: what the learner does with a finished group that a worker offers.

``open_offer`` reads and checks the bytes by themselves, ``decide`` holds the group against its lease and the state of
the run. Both are pure: the inbox gathers the facts and applies the decision.

========== ================================ ====================== ===========================================
status     when                             counted as             lease
========== ================================ ====================== ===========================================
ACCEPTED   valid, to be trained on          received, queued       completed
ACCEPTED   valid, ``why_drop`` has a reason received, dropped      completed
ACCEPTED   of an evaluation                 of the evaluation      completed
DUPLICATE  received before                  nothing                as it is
STALE      older than the lag bound         rejected: "stale"      returned to the queue: another try
STALE      evaluation: not the version      nothing                returned to the queue, not as a failed try
REJECTED   invalid                          rejected, by reason    returned to the queue: another try
========== ================================ ====================== ===========================================

A lease returns to the queue only when the sender is its holder.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from rlserve.actors.learner.ingest.checks import (
    VersionRange,
    check_against_lease,
    check_against_run,
    check_group_id,
    check_nonce,
    check_sender,
    check_versions,
    no_lease_any_more,
)
from rlserve.actors.learner.leases.nonces import Nonces
from rlserve.actors.learner.leases.settings import InboxSettings
from rlserve.errors import InvalidRequest
from rlserve.records import Purpose, RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.store.base import GroupInfo, Receipt

logger = logging.getLogger(__name__)

WhyDrop = Callable[[RolloutGroup], str | None]
"""Why a valid group is not trained on, as a closed word for counters; None to train on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A finished group as a worker sent it."""

    group_id: str
    nonce: str
    """Proves that the lease was granted to ``worker_id``."""
    worker_id: str
    payload: bytes
    """A RolloutGroup message."""

    def group(self, limits: GroupLimits) -> RolloutGroup:
        """Decode the payload. Raises InvalidRequest."""
        return codec.group_from_bytes(self.payload, limits=limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An offer after all checks that need no state."""

    offer: Offer
    group: RolloutGroup | None = None
    error: InvalidRequest | None = None
    """Set exactly when ``group`` is None."""
    why_drop: str = ""
    """Why the group is not trained on; empty to train on it, and for a group of an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The state of the run that a decision depends on."""

    version: int
    """Newest published policy version."""
    newest_known: int
    """Newest version that workers may have sampled with."""
    max_lag: int
    temperature: float
    already_received: bool = False
    """A copy of this group was received before."""


class AckStatus(StrEnum):
    """What the learner answers; the table above has what follows."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one offer."""

    group_id: str
    status: AckStatus
    reason: str = ""
    """Closed word; empty when accepted or a duplicate."""
    message: str = ""
    """The field, its value and the cure; for people."""
    counted: bool = False
    """The refusal counts: in the rejections by reason, and as a failed try of the lease."""
    versions: VersionRange | None = None
    """Versions that sampled an accepted group."""


def open_offer(offer: Offer, settings: InboxSettings, nonces: Nonces, why_drop: WhyDrop) -> Opened:
    """Decode an offer, check it against nonce and run, and ask ``why_drop`` about a training group."""
    try:
        # First: one digest tells a stranger, before megabytes of its payload are decoded.
        check_nonce(nonces, offer.nonce, group_id=offer.group_id, worker_id=offer.worker_id)
        group = offer.group(settings.limits)
        check_group_id(group, offer.group_id)
        check_against_run(group, run_id=settings.run_id, tokenizer_fingerprint=settings.tokenizer_fingerprint)
        check_sender(group, offer.worker_id)
    except InvalidRequest as error:
        return Opened(offer=offer, error=error)
    if group.purpose is Purpose.EVALUATE:
        return Opened(offer=offer, group=group)
    try:
        reason = why_drop(group)
    except Exception:
        # A defect in an algorithm's rule. Raised into the stream it would end that, and the worker, which has no ack,
        # would send the same group again and again.
        logger.exception("%s: whether to train on it cannot be decided; it is dropped", group.group_id)
        reason = "filter_failed"
    return Opened(offer=offer, group=group, why_drop=reason or "")


def decide(opened: Opened, lease: Lease | None, facts: Facts) -> Decision:
    """Accept a group for its ``lease`` (None: there is none, or no longer), or give the reason why not.

    Example, at version 5 with ``max_lag`` 2: a group whose oldest token is of version 3 is accepted, one of version 2
    is stale; for an evaluation only version 5 is accepted.
    """
    group, group_id = opened.group, opened.offer.group_id
    if group is None:
        assert opened.error is not None
        return _rejection(group_id, opened.error)
    # Before the lease: an accepted group's lease is closed, and a copy of the group is no fault of its sender.
    if facts.already_received:
        return Decision(group_id=group_id, status=AckStatus.DUPLICATE)
    try:
        if lease is None:
            raise no_lease_any_more(group_id)
        check_against_lease(group, lease, temperature=facts.temperature)
        versions = VersionRange.of(group, default=facts.version)
        check_versions(versions, newest_known=facts.newest_known)
    except InvalidRequest as error:
        return _rejection(group_id, error)
    evaluates = lease.purpose is Purpose.EVALUATE
    if facts.version - versions.oldest > (0 if evaluates else facts.max_lag):
        return _stale(group_id, versions, facts, evaluates=evaluates)
    return Decision(group_id=group_id, status=AckStatus.ACCEPTED, versions=versions)


def receipt(opened: Opened, decision: Decision) -> Receipt | None:
    """What the store keeps of an offer: its accepted training group, with the payload if that is to be queued."""
    group, versions = opened.group, decision.versions
    if group is None or versions is None or group.purpose is Purpose.EVALUATE:
        return None
    rewards = [t.verdict.reward for t in group.scored() if t.verdict is not None]
    info = GroupInfo(
        group_id=group.group_id,
        worker_id=opened.offer.worker_id,
        environment=group.task.environment,
        oldest_version=versions.oldest,
        num_samples=len(group.trajectories),
        reward_mean=sum(rewards) / len(rewards) if rewards else None,
    )
    return Receipt(info=info, payload=b"" if opened.why_drop else opened.offer.payload, dropped=opened.why_drop)


def _rejection(group_id: str, error: InvalidRequest) -> Decision:
    return Decision(group_id=group_id, status=AckStatus.REJECTED, reason=error.reason, message=str(error), counted=True)


def _stale(group_id: str, versions: VersionRange, facts: Facts, *, evaluates: bool) -> Decision:
    wanted = "the one that is measured" if evaluates else f"at most max_lag = {facts.max_lag} behind"
    return Decision(
        group_id=group_id,
        status=AckStatus.STALE,
        reason="stale",
        message=f"policy_spans: start at version {versions.oldest}, the newest is {facts.version} and the oldest taken "
        f"is {wanted}; fetch the newest weights",
        # An evaluation may begin while a worker still swaps to the version: that is no failure of the worker.
        counted=not evaluates,
    )
