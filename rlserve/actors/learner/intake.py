"""What becomes of an offered group: the rules between border, leases, queue and evaluation.

A training group ends as trained on; dropped as stale, on arrival or at batch time; dropped on arrival because it
teaches nothing (a word of ``keep``); or dropped because its lease failed too often (``"returned"``, ``"expired"``
or the last reason of rejection) or nobody can ever do it (``TASK_FAULTS``).
What is rejected is counted by reason and its lease is worked on again.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rlserve.actors.learner.border import (
    AckDecision,
    AckStatus,
    VersionRange,
    check_against_lease,
    check_against_run,
    check_versions,
    describe,
)
from rlserve.actors.learner.evaluation_round import EvaluationRound
from rlserve.actors.learner.group_queue import GroupQueue
from rlserve.actors.learner.issuer import Issuer
from rlserve.actors.learner.leases import GRACE_SECONDS, LeaseBook, Release
from rlserve.actors.learner.mixture import Ingredient
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.records import Purpose, RolloutGroup
from rlserve.store.base import GroupInfo, Store

logger = logging.getLogger(__name__)

Keep = Callable[[RolloutGroup], str | None]
"""Why a group teaches nothing, as a closed word for counters; None to train on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """What the intake needs to know of a run."""

    run_id: str
    seed: int
    ingredients: tuple[Ingredient, ...]
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

    @classmethod
    def of(cls, config: RunConfig, *, tokenizer_fingerprint: str) -> "InboxSettings":
        """As the run's configuration says."""
        return cls(
            run_id=config.name,
            seed=config.seed,
            ingredients=Ingredient.of(config.environments),
            num_samples=config.rollout.group_size,
            max_outstanding=config.max_outstanding_groups,
            leases_ahead=config.leases_ahead,
            max_lag=config.max_lag_steps,
            lease_seconds=config.learner.lease_seconds,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )


class Intake:
    """Decides on every group, once. Not thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        settings: InboxSettings,
        book: LeaseBook,
        issuer: Issuer,
        queue: GroupQueue,
        evaluation: EvaluationRound,
        keep: Keep,
        on_received: Callable[[RolloutGroup], None] | None,
    ) -> None:
        """``on_received`` sees every training group that counts as received."""
        self._store = store
        self._settings = settings
        self._book = book
        self._issuer = issuer
        self._queue = queue
        self._evaluation = evaluation
        self._keep = keep
        self._on_received = on_received
        self.arrival_lags: Counter[int] = Counter()
        """Training groups by the lag of their oldest token on arrival, stale ones included."""

    def offer(self, group: RolloutGroup, payload: bytes, worker_id: str) -> AckDecision:
        """Take a group in, or say why not."""
        try:
            return self._decide(group, payload, worker_id)
        except InvalidRequest as error:
            return self.refuse(group.group_id, worker_id, error)

    def refuse(self, group_id: str, worker_id: str, error: InvalidRequest) -> AckDecision:
        """Count what cannot be believed, and have its lease worked on again if it is the worker's."""
        self._store.reject(error.reason)
        logger.warning("rejected %r from %s (%s): %s", group_id, worker_id, error.reason, error)
        release = self._book.give_back(group_id, worker_id)
        if release is not None:
            self.released(release, error.reason)
        return AckDecision(group_id=group_id, status=AckStatus.REJECTED, reason=error.reason, message=str(error))

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
        self._issuer.settle(lease.group_id)

    def withdraw(self, environment: str) -> int:
        """Drop every training lease of an environment; returns how many there were."""
        leases = self._book.unsettled(environment)
        for lease in leases:
            info = GroupInfo(group_id=lease.group_id, worker_id="", environment=environment)
            self._store.receive_dropped(info, "environment_left")
            self._settle(lease.group_id)
        return len(leases)

    def _decide(self, group: RolloutGroup, payload: bytes, worker_id: str) -> AckDecision:
        group_id = group.group_id
        check_against_run(
            group, run_id=self._settings.run_id, tokenizer_fingerprint=self._settings.tokenizer_fingerprint
        )
        if self._evaluation.knows(group_id) or self._store.knows(group_id):
            return AckDecision(group_id=group_id, status=AckStatus.DUPLICATE)
        lease = self._book.find(group_id)
        if lease is None or not self._book.may_deliver(group_id, worker_id):
            raise InvalidRequest(
                f"group_id: {group_id!r} is no lease of {worker_id!r}; send groups of leases only",
                field="group_id",
                reason="unknown_lease",
            )
        check_against_lease(group, lease)
        versions = VersionRange.of(group, default=self._queue.version)
        check_versions(versions, newest_known=self._queue.newest_known)
        if lease.purpose is Purpose.EVALUATE:
            return self._measure(group, worker_id, versions)
        return self._admit(group, payload, worker_id, versions)

    def _admit(self, group: RolloutGroup, payload: bytes, worker_id: str, versions: VersionRange) -> AckDecision:
        info = describe(group, worker_id=worker_id, versions=versions)
        reason = "stale" if self._queue.is_stale(versions) else self._why_useless(group)
        if reason:
            self._store.receive_dropped(info, reason)
        else:
            self._queue.add(group, payload, info, versions)
        self._settle(group.group_id)
        self.arrival_lags[max(0, self._queue.version - versions.oldest)] += 1
        if self._on_received is not None:
            self._on_received(group)
        if reason == "stale":
            return self._stale(group, versions, f"at most max_lag = {self._settings.max_lag} behind")
        return AckDecision(group_id=group.group_id, status=AckStatus.ACCEPTED)

    def _measure(self, group: RolloutGroup, worker_id: str, versions: VersionRange) -> AckDecision:
        if versions.oldest < self._queue.version:
            self._book.give_back(group.group_id, worker_id, failed=False)
            return self._stale(group, versions, "the one that is measured")
        self._evaluation.receive(group)
        self._settle(group.group_id)
        return AckDecision(group_id=group.group_id, status=AckStatus.ACCEPTED)

    def _stale(self, group: RolloutGroup, versions: VersionRange, wanted: str) -> AckDecision:
        return AckDecision(
            group_id=group.group_id,
            status=AckStatus.STALE,
            reason="stale",
            message=f"policy_spans: start at version {versions.oldest}, the newest is {self._queue.version} and the "
            f"oldest taken is {wanted}; fetch the newest weights",
        )

    def _why_useless(self, group: RolloutGroup) -> str | None:
        try:
            return self._keep(group)
        except Exception:
            # A defect in an algorithm's rule. If it broke the stream, the group would come back for ever.
            logger.exception("%s: whether to keep it cannot be decided; it is dropped", group.group_id)
            return "filter_failed"

    def _settle(self, group_id: str) -> None:
        self._book.complete(group_id)
        self._issuer.settle(group_id)
