"""What becomes of an offered group: the rules between border, leases, queue and evaluation.

A training group ends as trained on; dropped as stale at batch time; dropped on arrival because it teaches nothing (a
word of ``keep``); or dropped because its lease failed too often (``"returned"``, ``"expired"``, ``"stale"`` or the
last reason of rejection) or nobody can ever do it (``TASK_FAULTS``). What is rejected, or stale on arrival, is
counted by reason, settles nothing, and its lease is worked on again if the sender is the one who holds it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.border import (
    AckDecision,
    AckStatus,
    VersionRange,
    check_against_lease,
    check_against_run,
    check_sender,
    check_versions,
    describe,
)
from rlserve.actors.learner.evaluation_round import EvaluationRound
from rlserve.actors.learner.group_queue import GroupQueue
from rlserve.actors.learner.issuer import LeaseSource
from rlserve.actors.learner.lease_state import Release
from rlserve.actors.learner.leases import GRACE_SECONDS, LeaseTable
from rlserve.actors.learner.mixture import MixtureEntry
from rlserve.actors.learner.troubles import Troubles, plain
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.records import Purpose, RolloutGroup
from rlserve.rpc import codec
from rlserve.rpc.codec import GroupLimits
from rlserve.store.base import GroupInfo, Receipt, Store

logger = logging.getLogger(__name__)

NO_LIMITS = GroupLimits()

Keep = Callable[[RolloutGroup], str | None]
"""Why a group teaches nothing, as a closed word for counters; None to train on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """What the intake needs to know of a run."""

    run_id: str
    seed: int
    mixture: tuple[MixtureEntry, ...]
    num_samples: int
    """Trajectories of a group."""
    max_outstanding: int
    """Groups leased or queued at once, beside those in training."""
    max_lag: int
    lease_seconds: float
    tokenizer_fingerprint: str
    grace_seconds: float = GRACE_SECONDS
    """A worker whose stream broke keeps its leases for this long."""
    leases_ahead: bool = True
    """Lease while a batch is in training; else its groups count as queued until the step is done."""
    batch: int = 1
    """Groups of a step."""
    temperature: float = 1.0
    """At which tasks are sampled that do not say themselves."""

    @classmethod
    def of(cls, config: RunConfig, *, tokenizer_fingerprint: str) -> "InboxSettings":
        """As the run's configuration says."""
        return cls(
            run_id=config.name,
            seed=config.seed,
            mixture=MixtureEntry.of(config.environments),
            num_samples=config.rollout.group_size,
            max_outstanding=config.max_outstanding_groups,
            leases_ahead=config.leases_ahead,
            max_lag=config.max_lag_steps,
            lease_seconds=config.learner.lease_seconds,
            batch=config.learner.groups_per_step,
            temperature=config.rollout.temperature,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A group as it came: bytes, and who says that they are whose lease's."""

    group_id: str
    nonce: str
    worker_id: str
    payload: bytes
    """A RolloutGroup message."""
    limits: GroupLimits = NO_LIMITS

    def group(self) -> RolloutGroup:
        """The group in the payload. Raises InvalidRequest."""
        return codec.group_from_bytes(self.payload, limits=self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An offer after all checks that need no lock."""

    offer: Offer
    group: RolloutGroup | None = None
    error: InvalidRequest | None = None
    """Set exactly when there is no group."""
    useless: str = ""
    """Why it teaches nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What becomes of one offer, once the store has written it."""

    offer: Offer
    decision: AckDecision
    group: RolloutGroup | None = None
    versions: VersionRange | None = None
    receipt: Receipt | None = None
    rejected: str = ""
    """Reason to count the refusal by."""


class Intake:
    """Decides on groups, each once: first all of a batch, then the store writes it, then it takes effect.

    Not thread-safe, except for ``check``, which looks at nothing that changes.
    """

    def __init__(
        self,
        *,
        store: Store,
        settings: InboxSettings,
        book: LeaseTable,
        issuer: LeaseSource,
        queue: GroupQueue,
        evaluation: EvaluationRound,
        troubles: Troubles,
        keep: Keep,
        on_received: Callable[[RolloutGroup], None] | None,
    ) -> None:
        """``on_received`` sees every training group that counts as received."""
        self._store = store
        self._settings = settings
        self._leases = book
        self._source = issuer
        self._queue = queue
        self._evaluation = evaluation
        self._troubles = troubles
        self._keep = keep
        self._on_received = on_received
        self.arrival_lags: Counter[int] = Counter()
        """Training groups by the lag of their oldest token on arrival."""

    def check(self, offer: Offer) -> Checked:
        """What can be said of an offer without looking at leases: reads, checks, and asks whether it teaches."""
        try:
            self._check_proof(offer)
            group = offer.group()
            if group.group_id != offer.group_id:
                raise InvalidRequest(
                    f"group_id: is {plain(group.group_id)!r}, sent as {offer.group_id!r}; give it its lease's",
                    field="group_id",
                    reason="unknown_lease",
                )
            check_against_run(
                group, run_id=self._settings.run_id, tokenizer_fingerprint=self._settings.tokenizer_fingerprint
            )
            check_sender(group, offer.worker_id)
        except InvalidRequest as error:
            return Checked(offer=offer, error=error)
        trains = group.purpose is Purpose.TRAIN
        return Checked(offer=offer, group=group, useless=(self._why_useless(group) or "") if trains else "")

    def take(self, batch: Sequence[Checked]) -> list[AckDecision]:
        """Take groups in, or say why not, in their order. What is accepted is durable when this returns."""
        seen: set[str] = set()
        plans = [self._plan(checked, seen) for checked in batch]
        receipts = [plan.receipt for plan in plans if plan.receipt is not None]
        rejected = Counter(plan.rejected for plan in plans if plan.rejected)
        if receipts or rejected:
            self._store.receive_many(receipts, rejected=rejected)
        for plan in plans:
            self._carry_out(plan)
        return [plan.decision for plan in plans]

    def released(self, release: Release, reason: str) -> None:
        """Account for a lease that was taken from its worker for the last time."""
        if not release.abandoned:
            return
        lease = release.lease
        logger.error("%s is given up (%s)", lease.group_id, reason)
        if lease.purpose is Purpose.EVALUATE:
            self._evaluation.give_up(lease.group_id)
            return
        info = GroupInfo(group_id=lease.group_id, worker_id=release.worker_id, environment=lease.environment)
        self._store.receive_dropped(info, reason)
        self._source.settle(lease.group_id)

    def withdraw(self, environment: str) -> int:
        """Drop every training lease of an environment; returns how many there were."""
        leases = self._leases.unsettled(environment)
        infos = [GroupInfo(group_id=lease.group_id, worker_id="", environment=environment) for lease in leases]
        receipts = [Receipt(info=info, dropped="environment_left") for info in infos]
        if receipts:
            self._store.receive_many(receipts, rejected={})
        for lease in leases:
            self._settle(lease.group_id)
        return len(leases)

    def _check_proof(self, offer: Offer) -> None:
        if not self._source.nonces.proves(offer.nonce, offer.group_id, offer.worker_id):
            raise InvalidRequest(
                f"group_id: {offer.group_id!r} is no lease of {offer.worker_id!r} by this nonce; send groups of leases "
                "only, with the nonce of the lease",
                field="group_id",
                reason="unknown_lease",
            )

    def _plan(self, checked: Checked, seen: set[str]) -> _Plan:
        offer = checked.offer
        try:
            if checked.error is not None:
                raise checked.error
            assert checked.group is not None
            return self._decide(offer, checked.group, checked.useless, seen)
        except InvalidRequest as error:
            decision = AckDecision(
                group_id=offer.group_id, status=AckStatus.REJECTED, reason=error.reason, message=str(error)
            )
            return _Plan(offer=offer, decision=decision, rejected=error.reason)

    def _decide(self, offer: Offer, group: RolloutGroup, useless: str, seen: set[str]) -> _Plan:
        group_id = group.group_id
        lease = self._leases.find(group_id)
        if group_id in seen or self._evaluation.knows(group_id) or (lease is None and self._store.knows(group_id)):
            return _Plan(offer=offer, decision=AckDecision(group_id=group_id, status=AckStatus.DUPLICATE))
        if lease is None:
            raise InvalidRequest(
                f"group_id: {group_id!r} is no lease any more; send groups of leases only",
                field="group_id",
                reason="unknown_lease",
            )
        check_against_lease(group, lease, temperature=self._settings.temperature)
        versions = VersionRange.of(group, default=self._queue.version)
        check_versions(versions, newest_known=self._queue.newest_known)
        measured = lease.purpose is Purpose.EVALUATE
        if versions.oldest < self._queue.version if measured else self._queue.is_stale(versions):
            return self._stale(offer, versions, measured=measured)
        seen.add(group_id)
        decision = AckDecision(group_id=group_id, status=AckStatus.ACCEPTED)
        if measured:
            return _Plan(offer=offer, decision=decision, group=group)
        info = describe(group, worker_id=offer.worker_id, versions=versions)
        payload = b"" if useless else offer.payload
        receipt = Receipt(info=info, payload=payload, dropped=useless)
        return _Plan(offer=offer, decision=decision, group=group, versions=versions, receipt=receipt)

    def _stale(self, offer: Offer, versions: VersionRange, *, measured: bool) -> _Plan:
        wanted = "the one that is measured" if measured else f"at most max_lag = {self._settings.max_lag} behind"
        decision = AckDecision(
            group_id=offer.group_id,
            status=AckStatus.STALE,
            reason="stale",
            message=f"policy_spans: start at version {versions.oldest}, the newest is {self._queue.version} and the "
            f"oldest taken is {wanted}; fetch the newest weights",
        )
        # A measurement may meet new weights in its first moments: that is nobody's failure.
        return _Plan(offer=offer, decision=decision, rejected="" if measured else "stale", versions=versions)

    def _carry_out(self, plan: _Plan) -> None:
        offer = plan.offer
        match plan.decision.status:
            case AckStatus.ACCEPTED if plan.group is not None:
                self._accept(plan, plan.group)
            case AckStatus.STALE:
                # It frees nothing: who sends old versions must not wear out the groups of the run.
                release = self._leases.give_back(offer.group_id, offer.worker_id, offer.nonce, failed=bool(plan.rejected))
                if release is not None:
                    self.released(release, "stale")
                if plan.rejected and plan.versions is not None:
                    self._troubles.rejected(offer.worker_id, "stale", plan.decision.message, tell=False)
                    self.arrival_lags[max(0, self._queue.version - plan.versions.oldest)] += 1
            case AckStatus.REJECTED:
                if self._troubles.rejected(offer.worker_id, plan.rejected, plan.decision.message):
                    logger.warning("rejected %r from %s: %s", offer.group_id, offer.worker_id, plan.decision.message)
                release = self._leases.give_back(offer.group_id, offer.worker_id, offer.nonce)
                if release is not None:
                    self.released(release, plan.rejected)

    def _accept(self, plan: _Plan, group: RolloutGroup) -> None:
        self._settle(group.group_id)
        self._leases.finished(plan.offer.worker_id)
        if plan.receipt is None or plan.versions is None:
            self._evaluation.receive(group)
            self._troubles.received(group, "", trains=False)
            return
        dropped = plan.receipt.dropped
        if not dropped:
            self._queue.add(group, plan.versions)
        self.arrival_lags[max(0, self._queue.version - plan.versions.oldest)] += 1
        self._troubles.received(group, dropped)
        if self._on_received is not None:
            self._on_received(group)

    def _why_useless(self, group: RolloutGroup) -> str | None:
        try:
            return self._keep(group)
        except Exception:
            # A defect in an algorithm's rule. If it broke the stream, the group would come back for ever.
            logger.exception("%s: whether to keep it cannot be decided; it is dropped", group.group_id)
            return "filter_failed"

    def _settle(self, group_id: str) -> None:
        self._leases.complete(group_id)
        self._source.settle(group_id)
