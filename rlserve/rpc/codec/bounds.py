"""The largest size of each field of each message: one table, and the walk that checks a message against it.

Servers check every request before its handler gets it (:mod:`rlserve.rpc.intercept`), clients every response
(:mod:`rlserve.rpc.channel`). The codec checks what fields mean. A field that the table lacks is held to the widest
bound of its type, and a test names it. Groups are left to :mod:`rlserve.rpc.codec.group`, which checks each of their
arrays.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from rlserve.rpc.codec.check import MAX_INT64, MAX_NAME, fault, join

Check = Callable[[Any, str, str], None]
"""Called with value, path of the message and name of the field; raises InvalidRequest for a value out of bounds."""

MAX_TEXT = 2**20
"""Characters of a text that a policy reads or writes: a million, beyond the context of today's models. Any value of
this size will do."""
MAX_REASON = 65536
"""Characters of an explanation or a schema. Any value of this size will do: it fits a trace, and a log."""
MAX_SECONDS = 1e9
"""A duration of 32 years. Any value of this size will do that arithmetic with times survives."""
MAX_UNIX_SECONDS = 1e11
"""The year 5138: a time in milliseconds, a common mistake, lies above it."""
MAX_TOKENS = 2**22
"""Four million tokens, about as many as a message of 16 MiB can hold."""
_ID = re.compile(r"[\w][\w.:/@+~,=#%-]*")


def _length(value: Any, at: str, field: str, high: int, unit: str) -> None:
    if len(value) > high:
        fault(at, field, f"has {len(value)} {unit}; at most {high}", "wrong_length")


def text(high: int) -> Check:
    """A check of a text's length alone."""
    return lambda value, at, field: _length(value, at, field, high, "characters")


def name(value: str, at: str, field: str) -> None:
    """Check a name: one line without control or invisible characters; it may be empty."""
    _length(value, at, field, MAX_NAME, "characters")
    if not value.isprintable():
        fault(at, field, f"is {ascii(value)[:80]}; remove control and invisible characters")


def identity(value: str, at: str, field: str) -> None:
    """Check an id: letters, digits and ``. : / @ + ~ , = # % -``; it may be empty."""
    _length(value, at, field, MAX_NAME, "characters")
    if value and not _ID.fullmatch(value):
        fault(at, field, f"is {ascii(value)[:80]}; use only letters, digits and . : / @ + ~ , = # % - in an id")


def data(high: int) -> Check:
    """A check of the length of bytes."""
    return lambda value, at, field: _length(value, at, field, high, "bytes")


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A check of a number: finite and within bounds."""

    def check(value: float, at: str, field: str) -> None:
        if not math.isfinite(value) or not low <= value <= high:
            fault(at, field, f"is {value}; give a finite number from {low:g} to {high:g}")

    return check


def real(value: float, at: str, field: str) -> None:
    """Accept any number, NaN and infinities included: a metric, or a number that the codec checks."""


def natural(value: int, at: str, field: str) -> None:
    """Check an integer: it must fit a signed 64-bit array."""
    if value > MAX_INT64:
        fault(at, field, f"is {value}; at most {MAX_INT64}")


def bits(value: int, at: str, field: str) -> None:
    """Accept a seed: any 64 bits."""


def small(value: int, at: str, field: str) -> None:
    """Accept a 32-bit integer, which its type bounds already; the codec checks what it counts."""


def listed(high: int, each: Check | None = None) -> Check:
    """A check of a repeated field: up to ``high`` entries; ``each`` checks entries that are not messages."""

    def check(values: Any, at: str, field: str) -> None:
        _length(values, at, field, high, "entries")
        if each is not None:
            for index, value in enumerate(values):
                each(value, at, f"{field}[{index}]")

    return check


def mapped(high: int, key: Check, value: Check) -> Check:
    """A check of a map: up to ``high`` entries, whose keys and values have checks of their own."""

    def check(values: Mapping[Any, Any], at: str, field: str) -> None:
        _length(values, at, field, high, "entries")
        for held, item in values.items():
            key(held, at, f"{field}: a key")
            value(item, at, f"{field}[{held!r}]")

    return check


# Numbers in the table: a list or map of names gets 256 or, where an operator's cluster fills it, 4096; chunks and
# payloads get what their senders cut them to. Any values of this size will do: they keep one message from exhausting
# memory.
seconds = number(0, MAX_SECONDS)
unix = number(0, MAX_UNIX_SECONDS)
share = number(0, 1)
digest = name
address = name

BOUNDS: Mapping[str, Mapping[str, Check]] = {
    "DescribeEnvironmentsResponse": {"environments": listed(4096)},
    "GetTasksRequest": {
        "environment": name, "split": name, "first_index": natural, "count": small, "seed": bits,
    },
    "GetTasksResponse": {"tasks": listed(1024)},
    "EpisodeOpen": {"episode_id": name},
    "PolicyTurn": {"text": text(MAX_TEXT), "tool_calls": listed(64)},
    "ToolCall": {"id": identity, "name": name, "arguments_json": text(MAX_REASON)},
    "EpisodeCancel": {"reason": text(MAX_REASON)},
    "EpisodeResponse": {"messages": listed(256)},
    "Failure": {"source": text(MAX_NAME), "message": text(MAX_REASON)},
    "Actor": {
        "actor_id": identity, "address": address, "incarnation": identity, "host": name, "pid": small,
        "serves": listed(256, name), "status": mapped(64, name, text(1024)), "registered_unix_seconds": unix,
        "last_seen_unix_seconds": unix, "run_id": identity,
    },
    "RegisterResponse": {"lease_id": identity, "lease_seconds": seconds},
    "HeartbeatRequest": {"lease_id": identity, "status": mapped(64, name, text(1024))},
    "HeartbeatResponse": {"lease_seconds": seconds},
    "DeregisterRequest": {"lease_id": identity},
    "ListActorsRequest": {"after": name},
    "ListActorsResponse": {"actors": listed(4096), "next": name},
    "RunState": {
        "run_id": identity, "phase": name, "step": natural, "total_steps": natural, "metrics": mapped(4096, name, real),
        "groups": mapped(4096, name, natural), "updated_unix_seconds": unix, "message": text(4096),
    },
    "EnvironmentSpec": {
        "name": name, "version": name, "address": address, "payload_schema_json": text(65536),
        "splits": mapped(256, name, natural), "verifier": name, "weight": number(0, 1e9), "description": text(4096),
        "held_out": listed(256, name), "command": listed(256, text(4096)),
    },
    "RegisterEnvironmentRequest": {"lease_id": identity},
    "UnregisterEnvironmentRequest": {"name": name},
    "ListEnvironmentsRequest": {"after": name},
    "ListEnvironmentsResponse": {"environments": listed(4096), "next": name},
    "PolicyVersion": {
        "version": natural, "tensors": listed(2**18), "parent_version": natural, "digest": digest,
        "total_bytes": natural, "published_unix_seconds": unix, "run_id": identity, "adapter": name,
    },
    "TensorSpec": {
        "name": name, "shape": listed(8, natural), "dtype": name, "digest": digest, "num_bytes": natural,
    },
    "AnnounceRequest": {"worker_id": identity},
    "FetchRequest": {
        "worker_id": identity, "version": natural, "held_version": natural, "chunk_bytes": small, "host_id": identity,
        "carriers": mapped(16, name, text(4096)),
    },
    "FetchHeader": {
        "version": natural, "base_version": natural, "total_bytes": natural, "num_chunks": small,
        "shared_path": text(4096), "carrier": name, "locator": text(4096),
    },
    "DeviceMemory": {"device": name, "handle": data(4096), "size_bytes": natural},
    "Chunk": {"index": small, "data": data(4 * 2**20), "digest": digest},
    "ConfirmRequest": {
        "worker_id": identity, "version": natural, "digest": digest, "stall_seconds": seconds,
        "update_seconds": seconds, "running_sequences": small,
    },
    "JoinRequest": {"role": name, "teacher": name, "version": name},
    "JoinResponse": {"config": text(2**20), "files": listed(4096)},
    "JoinFile": {"path": text(1024), "num_bytes": natural, "sha256": digest},
    "ReadFileRequest": {"sha256": digest, "offset": natural},
    "ReadFileResponse": {"data": data(4 * 2**20)},
    "GetStatusResponse": {
        "worker_id": identity, "policy_version": natural, "weights_digest": digest, "running_groups": small,
        "finished_groups": natural, "sampled_tokens": natural, "tokens_per_second": number(0),
        "weight_updates": natural,
    },
    "GenerateRequest": {"prompt_token_ids": listed(MAX_TOKENS), "n": small, "seed": bits},
    "GenerateResponse": {"trajectories": listed(1024)},
    "Hello": {
        "worker_id": identity, "run_id": identity, "tokenizer_fingerprint": name, "capacity": small,
        "held": listed(8192), "held_group_ids": listed(8192, name), "incarnation": identity,
    },
    "StreamRequest": {"more_groups": listed(256)},
    "HeldLease": {"group_id": name, "nonce": identity},
    "GroupPart": {"group_id": name, "nonce": identity, "total_bytes": natural, "data": data(2**26)},
    "Progress": {"leases": listed(8192)},
    "LeaseProgress": {
        "group_id": name, "nonce": identity, "tokens": natural, "steps": small, "stage": text(MAX_NAME),
    },
    "Acks": {"acks": listed(8192), "leases": listed(8192)},
    "LeaseReturn": {"group_id": name, "reason": text(MAX_REASON), "nonce": identity, "drop": name},
    "Welcome": {
        "run_id": identity, "policy_version": natural, "max_lag": small, "max_message_bytes": natural,
        "max_group_bytes": natural, "part_bytes": natural,
    },
    "Credit": {"leases": listed(8192)},
    "Lease": {
        "group_id": name, "environment": name, "split": name, "index": natural, "seed": bits, "num_samples": small,
        "limit_seconds": seconds, "temperature": number(0, 1e6), "max_new_tokens": small, "nonce": identity,
    },
    "Ack": {"group_id": text(MAX_NAME), "reason": name, "message": text(MAX_REASON)},
    "Goodbye": {"reason": text(4096)},
    "Task": {
        "environment": name, "environment_version": name, "split": name, "index": natural, "task_id": text(1024),
        "text": text(2**24), "verifier": name, "payload": data(2**26), "seed": bits, "tools": listed(256),
        "labels": mapped(256, name, text(1024)), "given": listed(64),
    },
    "GivenCompletion": {"text": text(2**24), "pair": small, "supervised_weight": real},
    "Conversation": {"messages": listed(65536)},
    "Message": {
        "role": name, "content": text(2**24), "tool_call_id": name, "tool_calls": listed(256, text(MAX_TEXT)),
    },
    "TokenIds": {"ids": listed(MAX_TOKENS)},
    "Tool": {"name": name, "description": text(MAX_REASON), "parameters_json": text(MAX_REASON)},
    "Sampling": {
        "temperature": number(0, 1e6), "top_p": share, "max_new_tokens": small, "stop": listed(64, text(1024)),
        "stop_token_ids": listed(4096),
    },
    "DescribeTeacherResponse": {
        "teacher": name, "tokenizer_fingerprint": name, "weights_digest": digest, "vocabulary_size": small,
        "max_k": small, "max_tokens": small,
    },
    "VocabularyResponse": {"token_bytes": listed(MAX_TOKENS, data(65536)), "end_id": small},
    "ScoreRequest": {
        "request_id": text(1024), "teacher": name, "tokenizer_fingerprint": name, "token_ids": listed(MAX_TOKENS),
        "first": small, "count": small, "k": small, "temperature": number(0, 1e6), "prompt_text": text(2**24),
        "completion_text": text(2**24), "tools": listed(256),
    },
    "ScoreResponse": {
        "request_id": text(1024), "end_offsets": listed(MAX_TOKENS), "token_ids": listed(MAX_TOKENS),
        "refused": text(MAX_REASON),
    },
    "Trajectory": {
        "sample_index": small, "token_ids": listed(MAX_TOKENS), "segments": listed(MAX_TOKENS),
        "behavior_logprobs": listed(MAX_TOKENS), "policy_spans": listed(MAX_TOKENS), "teacher_scores": listed(32),
        "objective_weights": listed(32), "completion": text(2**24), "temperature": number(0, 1e6), "top_p": share,
        "seed": bits, "started_unix_seconds": unix, "finished_unix_seconds": unix, "pair_index": small,
        "adapter": name, "generation_seconds": seconds, "verification_seconds": seconds,
    },
    "Segment": {"length": small, "turn": small},
    "PolicySpan": {"version": natural, "length": small},
    "ObjectiveWeights": {"objective": name, "weights": listed(MAX_TOKENS)},
    "TeacherScores": {
        "teacher": name, "tokenizer_fingerprint": name, "weights_digest": digest, "logprobs": data(4 * MAX_TOKENS),
        "k": small, "top_ids": data(2**26), "top_logprobs": data(2**26), "log_tail": data(4 * MAX_TOKENS),
        "temperature": number(0, 1e6), "span_lengths": listed(MAX_TOKENS), "matched_share": share,
    },
    "RolloutGroup": {
        "group_id": name, "trajectories": listed(65536), "worker_id": identity, "tokenizer_fingerprint": name,
        "run_id": identity,
    },
    "Verdict": {
        "reward": real, "parts": mapped(256, name, real), "reason": text(MAX_REASON), "verifier": name,
        "seconds": seconds, "passed": small, "total": small, "isolation": name, "output": text(MAX_TEXT),
    },
    "DescribeVerifiersResponse": {"verifiers": listed(4096)},
    "VerifierSpec": {
        "name": name, "version": name, "description": text(4096), "reward_min": real, "reward_max": real,
        "limit_seconds": seconds, "isolation": name,
    },
    "VerifyRequest": {
        "verifier": name, "payload": data(2**26), "completions": listed(1024, data(2**26)), "prompt": text(2**26),
    },
    "VerifyProgress": {"judged": small},
    "VerifyResult": {"verdicts": listed(1024), "reward_min": real, "reward_max": real},
}  # fmt: skip
"""Checks by message and field. Booleans and single messages need none; the codec checks enums."""

LEFT_TO_CODEC = frozenset({"RolloutGroup"})


def check_bounds(message: Message, at: str = "") -> None:
    """Check every field of a message, nested ones included. Raises InvalidRequest with the path of the field."""
    plan = _plan(message.DESCRIPTOR)
    if plan is None:
        return
    # ListFields visits set fields alone: an absent one is within every bound, and most messages set few.
    for field, value in message.ListFields():
        check, is_message, is_repeated = plan[field.number]
        if check is not None:
            check(value, at, field.name)
        if not is_message:
            continue
        if not is_repeated:
            check_bounds(value, join(at, field.name))
            continue
        for index, item in enumerate(value):
            check_bounds(item, join(at, f"{field.name}[{index}]"))


@functools.cache
def _plan(descriptor: Descriptor) -> Mapping[int, tuple[Check | None, bool, bool]] | None:
    """By field number: its check, whether it holds messages, whether it is repeated; None to skip the message.

    It is cached, since looking at descriptors takes longer than checking a small message.
    """
    if descriptor.name in LEFT_TO_CODEC or not descriptor.full_name.startswith("rlserve."):
        return None
    bounds = BOUNDS.get(descriptor.name, {})
    plan = {}
    for field in descriptor.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        is_message = field.message_type is not None and not is_map
        check = bounds.get(field.name, _widest if needs_bound(field) else None)
        plan[field.number] = (check, is_message, bool(field.is_repeated))
    return plan


def needs_bound(field: FieldDescriptor) -> bool:
    """Whether the table must have an entry for the field."""
    if field.is_repeated:
        return True
    return field.type not in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_MESSAGE)


def _widest(value: Any, at: str, field: str) -> None:
    """The check of a field without an entry in the table."""
    if isinstance(value, float):
        number()(value, at, field)
    elif not isinstance(value, int):
        _length(value, at, field, MAX_TOKENS, "entries")
