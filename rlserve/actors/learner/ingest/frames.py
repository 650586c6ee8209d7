"""Checks of the rollout stream's frames, before their content is used; all pure."""

import re

from rlserve.errors import TASK_FAULTS, InvalidRequest
from rlserve.records.lease import MAX_MORE_GROUPS, MAX_REASON_CHARACTERS, LeaseProgress
from rlserve.rpc.codec.check import count, fault, integer, text
from rlserve.v1 import rollout_stream_service_pb2 as pb

MAX_CAPACITY = 4096
"""Leases that one worker may hold: beyond any engine's number of sequences, and a bound on what a hello may hold."""
PART_BYTES = 2**20
"""Largest part of a group: below gRPC's default limit of 4 MiB a message, and large enough that a part's fixed cost is
small."""
MAX_FRAME_BYTES = 4 * PART_BYTES
"""A hello or a report of a worker that holds ``MAX_CAPACITY`` leases is smaller than this, and so is any part."""
MAX_STEPS = 100_000
"""Stages of work that renew a lease; any value beyond what an episode takes will do."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,255}")


def check_hello(hello: pb.Hello, *, run_id: str, tokenizer_fingerprint: str) -> None:
    """Raise InvalidRequest for a worker that cannot join this run."""
    if not _NAME.fullmatch(hello.worker_id):
        shown = ascii(hello.worker_id[:80])
        fault(
            "hello",
            "worker_id",
            f"is {shown}; name the worker by 1 to 256 letters, digits and . _ : @ / -, the first a letter or digit",
        )
    if hello.run_id != run_id:
        fault("hello", "run_id", f"is {hello.run_id[:80]!a}; this learner runs {run_id!r}")
    if hello.tokenizer_fingerprint != tokenizer_fingerprint:
        problem = f"{hello.worker_id} has another tokenizer than the learner; start both from the same model"
        fault("hello", "tokenizer_fingerprint", problem)
    integer(hello.capacity, "hello", "capacity", low=1, high=MAX_CAPACITY)
    count(hello.held, "hello", "held", high=MAX_CAPACITY)
    if len(hello.incarnation) > 256:
        fault("hello", "incarnation", f"has {len(hello.incarnation)} characters; at most 256")
    for i, held in enumerate(hello.held):
        _check_lease(held, f"hello.held[{i}]")


def read_parts(request: pb.StreamRequest, *, max_group_bytes: int) -> list[tuple[pb.GroupPart, bytes]]:
    """The parts of groups in a frame, each with its data. Raises InvalidRequest when a limit is broken."""
    count(request.more_groups, "", "more_groups", high=MAX_MORE_GROUPS)
    parts = [(request.group, request.group.data)]  # each look at the field copies its bytes
    _check_part(*parts[0], "group", max_group_bytes)
    if request.more_groups:
        total = len(parts[0][1])
        for i, part in enumerate(request.more_groups):
            data = part.data
            _check_part(part, data, f"more_groups[{i}]", max_group_bytes)
            total += len(data)
            parts.append((part, data))
        # A stream that waits for room holds its frame: no more of it than with one group.
        if total > PART_BYTES:
            fault("", "more_groups", f"bring the frame's data to {total} bytes; give up to {PART_BYTES} in a frame")
    return parts


def check_no_groups(request: pb.StreamRequest) -> None:
    """Raise InvalidRequest when a frame of another kind brings groups."""
    count(request.more_groups, "", "more_groups", high=0)


def _check_part(part: pb.GroupPart, data: bytes, at: str, max_group_bytes: int) -> None:
    _check_lease(part, at)
    if not 0 < part.total_bytes <= max_group_bytes:
        problem = f"is {part.total_bytes}; a group has 1 to learner.max_group_bytes = {max_group_bytes} bytes"
        fault(at, "total_bytes", problem)
    if not 0 < len(data) <= min(PART_BYTES, part.total_bytes):
        fault(at, "data", f"has {len(data)} bytes of {part.total_bytes}; give 1 to {PART_BYTES} in a part")


def check_return(back: pb.LeaseReturn) -> None:
    """Raise InvalidRequest for a malformed lease return."""
    _check_lease(back, "lease_return")
    if len(back.reason) > MAX_REASON_CHARACTERS:
        fault("lease_return", "reason", f"has {len(back.reason)} characters; at most {MAX_REASON_CHARACTERS}")
    if back.drop and back.drop not in TASK_FAULTS:
        fault("lease_return", "drop", f"is {back.drop[:80]!a}; leave it empty or give {', '.join(TASK_FAULTS)}")


def read_progress(message: pb.Progress) -> list[LeaseProgress]:
    """The progress reports of a frame. Raises InvalidRequest."""
    count(message.leases, "progress", "leases", high=MAX_CAPACITY)
    return [_progress(lease, f"progress.leases[{i}]") for i, lease in enumerate(message.leases)]


def _progress(message: pb.LeaseProgress, at: str) -> LeaseProgress:
    _check_lease(message, at)
    if len(message.stage) > 256 or not message.stage.isprintable():
        fault(at, "stage", f"is {message.stage[:80]!a}; give at most 256 printable characters")
    return LeaseProgress(
        group_id=message.group_id,
        nonce=message.nonce,
        tokens=integer(message.tokens, at, "tokens"),
        # Cut: beyond it steps renew no lease, so a worker that only counts up does not keep one without end.
        steps=min(message.steps, MAX_STEPS),
        stage=message.stage,
    )


def _check_lease(message: pb.HeldLease | pb.GroupPart | pb.LeaseReturn | pb.LeaseProgress, at: str) -> None:
    text(message.group_id, at, "group_id")
    # Messages and logs repeat the id: a control character could forge a line of them.
    if not message.group_id.isprintable():
        fault(at, "group_id", f"is {message.group_id[:80]!a}; give the id of a lease")
    text(message.nonce, at, "nonce", max_length=64)


def second_hello() -> InvalidRequest:
    """For a frame that may not follow the hello."""
    return InvalidRequest("frame: is a second hello or unknown; send groups, reports and lease returns after the hello")
