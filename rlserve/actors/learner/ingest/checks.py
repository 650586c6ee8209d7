"""Checks of a finished group against its nonce, its lease and the run; all pure.

The codec checked each field by itself. The message of an InvalidRequest goes back to the sender in the ack.
"""

import math
from dataclasses import dataclass

from rlserve.actors.learner.ingest.troubles import plain
from rlserve.actors.learner.leases.nonces import Nonces
from rlserve.errors import InvalidRequest
from rlserve.records import FinishReason, Purpose, RolloutGroup
from rlserve.records.lease import Lease


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Policy versions that sampled a group."""

    oldest: int
    newest: int

    @classmethod
    def of(cls, group: RolloutGroup, *, default: int) -> "VersionRange":
        """Over all sampled tokens; ``default`` when none was sampled."""
        versions = [span.version for t in group.trajectories for span in t.policy_spans]
        return cls(min(versions, default=default), max(versions, default=default))


COLDEST = 0.01
"""Lowest temperature that a task may set for training: below it a sampled token's log-probability is nearly 0 whatever
the policy, so ratios carry no signal."""


def check_nonce(nonces: Nonces, nonce: str, *, group_id: str, worker_id: str) -> None:
    """Raise InvalidRequest unless the nonce proves that the worker was granted the group's lease."""
    if not nonces.proves(nonce, group_id, worker_id):
        raise InvalidRequest(
            f"group_id: {group_id!r} is no lease of {worker_id!r} by this nonce; send groups of leases only, with the "
            "nonce of the lease",
            field="group_id",
            reason="unknown_lease",
        )


def check_group_id(group: RolloutGroup, group_id: str) -> None:
    """Raise InvalidRequest when the group has another id than its frame."""
    if group.group_id != group_id:
        raise InvalidRequest(
            f"group_id: is {plain(group.group_id)!r}, sent as {group_id!r}; give it its lease's",
            field="group_id",
            reason="unknown_lease",
        )


def no_lease_any_more(group_id: str) -> InvalidRequest:
    """For a group whose lease was completed or abandoned without it."""
    return InvalidRequest(
        f"group_id: {group_id!r} is no lease any more; send groups of leases only",
        field="group_id",
        reason="unknown_lease",
    )


def check_sender(group: RolloutGroup, worker_id: str) -> None:
    """Raise InvalidRequest when another worker than the sender made the group."""
    if group.worker_id != worker_id:
        raise InvalidRequest(
            f"worker_id: is {group.worker_id!r}, but {worker_id!r} sends it; send your own groups only",
            field="worker_id",
            reason="wrong_worker",
        )


def check_against_lease(group: RolloutGroup, lease: Lease, *, temperature: float) -> None:
    """Raise InvalidRequest unless the group is what the lease asked for.

    ``temperature`` is the run's, for tasks and leases that set none.
    """
    _check_task(group, lease)
    _check_samples(group, lease)
    if lease.purpose is Purpose.TRAIN:
        _check_training(group, lease, temperature)


def _check_task(group: RolloutGroup, lease: Lease) -> None:
    task = group.task
    if task.environment != lease.environment:
        raise InvalidRequest(
            f"task.environment: is {task.environment!r}, but the lease is for {lease.environment!r}; "
            "work on the task that was leased",
            field="task.environment",
            reason="unknown_environment",
        )
    if task.split != lease.split or group.purpose is not lease.purpose:
        raise InvalidRequest(
            f"task.split: is {task.split!r} for purpose {group.purpose}, but the lease is for {lease.split!r} and "
            f"{lease.purpose}; work on the task that was leased",
            field="task.split",
            reason="wrong_task",
        )
    if task.index != lease.index:
        raise InvalidRequest(
            f"task.index: is {task.index}, but the lease is for {lease.index}; work on the task that was leased",
            field="task.index",
            reason="wrong_task",
        )


def _check_samples(group: RolloutGroup, lease: Lease) -> None:
    given = bool(group.task.given) and lease.purpose is Purpose.TRAIN
    wanted = len(group.task.given) if given else lease.num_samples
    if len(group.trajectories) != wanted:
        raise InvalidRequest(
            f"trajectories: are {len(group.trajectories)}, but the {'task gives' if given else 'lease asks for'} "
            f"{wanted}; send every sample, failed ones too",
            field="trajectories",
            reason="wrong_num_samples",
        )
    for place, trajectory in enumerate(group.trajectories):
        field = f"trajectories[{place}]"
        if given != (trajectory.finish_reason is FinishReason.GIVEN):
            raise InvalidRequest(
                f"{field}.finish_reason: is {trajectory.finish_reason}, but the task gives "
                f"{'its' if given else 'no'} completions; sample exactly what it does not give",
                field=f"{field}.finish_reason",
                reason="wrong_task",
            )
        if trajectory.sample_index >= wanted:
            raise InvalidRequest(
                f"{field}.sample_index: is {trajectory.sample_index}, but there are {wanted} samples; count from 0",
                field=f"{field}.sample_index",
                reason="wrong_num_samples",
            )
        seed = (lease.seed + trajectory.sample_index) % 2**64
        if not given and trajectory.seed != seed:
            raise InvalidRequest(
                f"{field}.seed: is {trajectory.seed}, but the lease asks for {seed}; "
                "sample i is drawn with the lease's seed + i",
                field=f"{field}.seed",
                reason="wrong_seed",
            )


def _check_training(group: RolloutGroup, lease: Lease, temperature: float) -> None:
    sampled = [(i, t) for i, t in enumerate(group.trajectories) if t.finish_reason is not FinishReason.GIVEN]
    own = group.task.sampling.temperature
    wanted = next(t for t in (lease.temperature, own, lease.usual_sampling.temperature, temperature) if t is not None)
    # A run may itself be colder than COLDEST; a task may not be colder than both.
    if sampled and own is not None and own < min(COLDEST, temperature):
        raise InvalidRequest(
            f"task.sampling.temperature: is {own:g}; training samples at {COLDEST:g} or more",
            field="task.sampling.temperature",
            reason="wrong_temperature",
        )
    for place, trajectory in sampled:
        if not math.isclose(trajectory.temperature, wanted, rel_tol=1e-6):
            raise InvalidRequest(
                f"trajectories[{place}].temperature: is {trajectory.temperature:g}, but {wanted:g} is asked for; "
                "sample as lease, task and run say",
                field=f"trajectories[{place}].temperature",
                reason="wrong_temperature",
            )
        if trajectory.top_p != 1:
            raise InvalidRequest(
                "trajectories.top_p: is below 1, but log-probabilities are over the whole vocabulary; sample with 1",
                field="trajectories.top_p",
                reason="truncated_sampling",
            )


def check_against_run(group: RolloutGroup, *, run_id: str, tokenizer_fingerprint: str) -> None:
    """Raise InvalidRequest when the group belongs to another run or was made with another tokenizer."""
    if group.run_id != run_id:
        raise InvalidRequest(
            f"run_id: is {group.run_id!r}, but this learner runs {run_id!r}; join the right learner",
            field="run_id",
            reason="wrong_run",
        )
    if group.tokenizer_fingerprint != tokenizer_fingerprint:
        raise InvalidRequest(
            f"tokenizer_fingerprint: is {group.tokenizer_fingerprint!r}, but the run's is "
            f"{tokenizer_fingerprint!r}; load the run's checkpoint",
            field="tokenizer_fingerprint",
            reason="wrong_tokenizer",
        )


def check_versions(versions: VersionRange, *, newest_known: int) -> None:
    """Raise InvalidRequest when a token was sampled by a version that was never published."""
    if versions.newest > newest_known:
        raise InvalidRequest(
            f"policy_spans: name version {versions.newest}, but the newest is {newest_known}; "
            "fetch the weights of this learner",
            field="policy_spans",
            reason="unknown_version",
        )
