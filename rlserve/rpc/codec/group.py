"""RolloutGroup on the wire, and as bytes in a store."""

from google.protobuf.message import DecodeError

from rlserve.errors import InvalidRequest
from rlserve.records import RolloutGroup, Trajectory
from rlserve.rpc.codec.check import fault, join, text
from rlserve.rpc.codec.limits import GroupLimits
from rlserve.rpc.codec.task import PURPOSE, task_from_proto, task_to_proto
from rlserve.rpc.codec.trajectory import trajectory_from_proto, trajectory_to_proto
from rlserve.v1 import trajectory_pb2 as pb


def group_to_proto(group: RolloutGroup) -> pb.RolloutGroup:
    """Encode a group."""
    return pb.RolloutGroup(
        group_id=group.group_id,
        task=task_to_proto(group.task),
        trajectories=[trajectory_to_proto(trajectory) for trajectory in group.trajectories],
        worker_id=group.worker_id,
        tokenizer_fingerprint=group.tokenizer_fingerprint,
        run_id=group.run_id,
        purpose=PURPOSE.encode(group.purpose),
    )


def group_from_proto(message: pb.RolloutGroup, at: str = "", *, limits: GroupLimits | None = None) -> RolloutGroup:
    """Decode a group, checking every field. Raises InvalidRequest with the field's path and one of ``REASONS``."""
    limits = limits or GroupLimits()
    _check_count(message, at, limits)
    return RolloutGroup(
        group_id=text(message.group_id, at, "group_id"),
        task=task_from_proto(message.task, join(at, "task"), vocab_size=limits.vocab_size),
        trajectories=_trajectories(message, at, limits),
        worker_id=text(message.worker_id, at, "worker_id"),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        run_id=message.run_id,
        purpose=PURPOSE.decode(message.purpose, at, "purpose"),
    )


def group_to_bytes(group: RolloutGroup) -> bytes:
    """Encode a group as bytes."""
    return group_to_proto(group).SerializeToString()


def group_from_bytes(data: bytes, *, limits: GroupLimits | None = None) -> RolloutGroup:
    """Decode a group from bytes. Raises InvalidRequest for any bytes that are not a valid group."""
    try:
        message = pb.RolloutGroup.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            f"group: {len(data)} bytes are not a RolloutGroup ({error}); send protobuf bytes", field="group"
        ) from None
    return group_from_proto(message, limits=limits)


def _check_count(message: pb.RolloutGroup, at: str, limits: GroupLimits) -> None:
    count = len(message.trajectories)
    if not count:
        fault(at, "trajectories", "is empty; give at least one", "wrong_length")
    # Before any trajectory is decoded: the cost of refusing a group must not grow with its size.
    if limits.max_trajectories is not None and count > limits.max_trajectories:
        fault(at, "trajectories", f"has {count} entries; at most {limits.max_trajectories}", "too_many")
    seen: set[int] = set()
    for i, trajectory in enumerate(message.trajectories):
        if trajectory.sample_index in seen:
            problem = f"is {trajectory.sample_index}, as of an earlier trajectory; give each its own"
            fault(at, f"trajectories[{i}].sample_index", problem, "duplicate_sample")
        seen.add(trajectory.sample_index)


def _trajectories(message: pb.RolloutGroup, at: str, limits: GroupLimits) -> tuple[Trajectory, ...]:
    return tuple(
        [
            trajectory_from_proto(trajectory, join(at, f"trajectories[{i}]"), limits=limits)
            for i, trajectory in enumerate(message.trajectories)
        ]
    )
