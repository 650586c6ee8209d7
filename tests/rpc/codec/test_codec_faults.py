"""Every fault of a message is an InvalidRequest that names the field and a closed reason, and nothing else."""

import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.errors import InvalidRequest
from rlserve.rpc import codec
from rlserve.v1 import policy_pb2, trajectory_pb2, verdict_pb2
from rlserve.v1 import rollout_stream_service_pb2 as stream_pb
from tests.support import wire_records as wire

LIMITS = codec.GroupLimits(vocab_size=100, max_tokens=8, max_trajectories=2)
Group = trajectory_pb2.RolloutGroup


def good_group() -> Group:
    """Two trajectories: prompt 5 6, answer 7 8 by version 1 and 9 by version 2."""
    group = Group(group_id="g", worker_id="w", purpose=trajectory_pb2.PURPOSE_TRAIN, tokenizer_fingerprint="t")
    task = group.task
    task.environment, task.split, task.task_id, task.verifier, task.text = "arithmetic", "train", "1", "exact", "1+1="
    for index in range(2):
        member = group.trajectories.add(sample_index=index, finish_reason=1, temperature=1.0, top_p=1.0)
        member.token_ids.extend([5, 6, 7, 8, 9])
        member.segments.add(kind=trajectory_pb2.SEGMENT_KIND_GIVEN, length=2)
        member.segments.add(kind=trajectory_pb2.SEGMENT_KIND_SAMPLED, length=3)
        member.behavior_logprobs.extend([-0.1, -0.2, -0.3])
        member.policy_spans.add(version=1, length=2)
        member.policy_spans.add(version=2, length=1)
        member.verdict.outcome = verdict_pb2.OUTCOME_PASS
        member.verdict.reward = 1.0
        scores = member.teacher_scores.add(teacher="big", k=1, tokenizer_fingerprint="t")
        scores.logprobs = scores.top_logprobs = floats(-0.1, -0.1, -0.1)
        scores.top_ids = ids(1, 2, 3)
        scores.log_tail = floats(-2.0, -2.0, -2.0)
        member.objective_weights.add(objective="policy", weights=[1.0])
    return group


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def ids(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def last(group: Group) -> trajectory_pb2.Trajectory:
    return group.trajectories[1]


def put(path: str, value: Any) -> Callable[[Group], None]:
    """Set a field of the last trajectory, e.g. ``put("verdict.reward", nan)`` or ``put("token_ids[1]", 0)``."""

    def change(group: Group) -> None:
        target: Any = last(group)
        *parents, name = path.split(".")
        for parent in parents:
            target = step(target, parent)
        if name.endswith("]"):
            step(target, name.split("[")[0])[int(name[:-1].split("[")[1])] = value
        elif isinstance(value, list):
            del getattr(target, name)[:]
            getattr(target, name).extend(value)
        else:
            setattr(target, name, value)

    return change


def step(target: Any, name: str) -> Any:
    if "[" not in name:
        return getattr(target, name)
    field, index = name[:-1].split("[")
    return getattr(target, field)[int(index)]


def no_verdict_without_reason(group: Group) -> None:
    last(group).verdict.outcome = verdict_pb2.OUTCOME_NO_VERDICT


def reason_with_a_verdict(group: Group) -> None:
    last(group).verdict.no_verdict.source = "verifier:math"


def failure_without_kind(group: Group) -> None:
    last(group).verdict.outcome = verdict_pb2.OUTCOME_NO_VERDICT
    last(group).verdict.no_verdict.source = "verifier:math"


def too_many(group: Group) -> None:
    group.trajectories.add().CopyFrom(last(group))
    group.trajectories[2].sample_index = 2


def top(field: str, value: Any) -> Callable[[Group], None]:
    return lambda group: setattr(group, field, value)


def task(field: str, value: Any) -> Callable[[Group], None]:
    return lambda group: setattr(group.task, field, value)


T = "trajectories[1]"
FAULTS: list[tuple[Callable[[Group], None], str, str]] = [
    (put("behavior_logprobs[2]", math.nan), f"{T}.behavior_logprobs[2]", "nan_logprob"),
    (put("behavior_logprobs[0]", -math.inf), f"{T}.behavior_logprobs[0]", "logprob_range"),
    (put("behavior_logprobs[1]", math.inf), f"{T}.behavior_logprobs[1]", "logprob_range"),
    (put("behavior_logprobs[1]", 0.001), f"{T}.behavior_logprobs[1]", "logprob_range"),
    (put("behavior_logprobs[1]", -1001.0), f"{T}.behavior_logprobs[1]", "logprob_range"),
    (put("behavior_logprobs", [-0.1, -0.2]), f"{T}.behavior_logprobs", "wrong_length"),
    (put("behavior_logprobs", [-0.1] * 5), f"{T}.behavior_logprobs", "wrong_length"),
    (put("token_ids[3]", 100), f"{T}.token_ids[3]", "bad_token"),
    (put("token_ids[3]", 2**32 - 1), f"{T}.token_ids[3]", "bad_token"),
    (put("token_ids", []), f"{T}.token_ids", "wrong_length"),
    (put("token_ids", [1, 2, 3, 4]), f"{T}.segments", "wrong_length"),
    (put("token_ids", [1] * 9), f"{T}.token_ids", "too_long"),
    (put("segments[0].length", 3), f"{T}.segments", "wrong_length"),
    (put("segments[0].length", 0), f"{T}.segments[0].length", "wrong_length"),
    (put("segments[0].length", 2**32 - 1), f"{T}.segments", "wrong_length"),
    (put("segments[1].kind", 0), f"{T}.segments[1].kind", "bad_enum"),
    (put("segments[1].kind", 77), f"{T}.segments[1].kind", "bad_enum"),
    (put("policy_spans[1].length", 2), f"{T}.policy_spans", "wrong_length"),
    (put("policy_spans[1].length", 0), f"{T}.policy_spans[1].length", "wrong_length"),
    (put("policy_spans[1].version", 0), f"{T}.policy_spans[1].version", "bad_version"),
    (put("policy_spans[1].version", 2**63), f"{T}.policy_spans[1].version", "bad_version"),
    (put("finish_reason", 0), f"{T}.finish_reason", "bad_enum"),
    (put("preference_role", 9), f"{T}.preference_role", "bad_enum"),
    (put("sample_index", 0), f"{T}.sample_index", "duplicate_sample"),
    (put("temperature", -1.0), f"{T}.temperature", "malformed"),
    (put("temperature", math.nan), f"{T}.temperature", "malformed"),
    (put("top_p", 1.5), f"{T}.top_p", "malformed"),
    (put("generation_seconds", -1.0), f"{T}.generation_seconds", "malformed"),
    (put("started_unix_seconds", math.inf), f"{T}.started_unix_seconds", "malformed"),
    (put("verdict.reward", math.nan), f"{T}.verdict.reward", "nan_reward"),
    (put("verdict.reward", math.inf), f"{T}.verdict.reward", "nan_reward"),
    (put("verdict.reward", 1.7e308), f"{T}.verdict.reward", "absurd_reward"),
    (put("verdict.reward", -1e30), f"{T}.verdict.reward", "absurd_reward"),
    (put("verdict.outcome", 0), f"{T}.verdict.outcome", "bad_enum"),
    (put("verdict.passed", 1), f"{T}.verdict.passed", "malformed"),
    (put("verdict.seconds", -0.5), f"{T}.verdict.seconds", "malformed"),
    (lambda g: last(g).verdict.parts.update({"x": math.nan}), f"{T}.verdict.parts['x']", "malformed"),
    (no_verdict_without_reason, f"{T}.verdict.no_verdict", "malformed"),
    (reason_with_a_verdict, f"{T}.verdict.no_verdict", "malformed"),
    (failure_without_kind, f"{T}.verdict.no_verdict.kind", "bad_enum"),
    (
        put("teacher_scores[0].logprobs", floats(-0.1, math.nan, -0.1)),
        f"{T}.teacher_scores[0].logprobs[1]",
        "nan_logprob",
    ),
    (put("teacher_scores[0].logprobs", b"\0" * 11), f"{T}.teacher_scores[0].logprobs", "wrong_length"),
    (put("teacher_scores[0].top_ids", b"\0" * 13), f"{T}.teacher_scores[0].top_ids", "wrong_length"),
    (put("teacher_scores[0].logprobs", floats(-0.1)), f"{T}.teacher_scores[0].logprobs", "wrong_length"),
    (put("teacher_scores[0].k", 2), f"{T}.teacher_scores[0].top_ids", "wrong_length"),
    (put("teacher_scores[0].top_logprobs", b""), f"{T}.teacher_scores[0].top_logprobs", "wrong_length"),
    (put("teacher_scores[0].top_ids", ids(100, 2, 3)), f"{T}.teacher_scores[0].top_ids[0]", "bad_token"),
    (put("teacher_scores[0].log_tail", b""), f"{T}.teacher_scores[0].log_tail", "wrong_length"),
    (put("teacher_scores[0].teacher", ""), f"{T}.teacher_scores[0].teacher", "malformed"),
    (put("teacher_scores[0].span_lengths", [2, 2]), f"{T}.teacher_scores[0].span_lengths", "wrong_length"),
    (put("teacher_scores[0].span_lengths", [0, 1]), f"{T}.teacher_scores[0].span_lengths", "wrong_length"),
    (put("objective_weights[0].weights", [1.0, 2.0]), f"{T}.objective_weights[0].weights", "wrong_length"),
    (put("objective_weights[0].weights", [math.nan]), f"{T}.objective_weights[0].weights", "malformed"),
    (put("objective_weights[0].objective", ""), f"{T}.objective_weights[0].objective", "malformed"),
    (too_many, "trajectories", "too_many"),
    (lambda g: g.ClearField("trajectories"), "trajectories", "wrong_length"),
    (top("group_id", ""), "group_id", "malformed"),
    (top("group_id", "x" * 257), "group_id", "malformed"),
    (top("worker_id", ""), "worker_id", "malformed"),
    (top("purpose", 0), "purpose", "bad_enum"),
    (task("environment", ""), "task.environment", "malformed"),
    (task("split", ""), "task.split", "malformed"),
    (task("index", 2**63), "task.index", "malformed"),
    (task("verifier", ""), "task.verifier", "malformed"),
    (lambda g: g.task.ClearField("text"), "task.prompt", "malformed"),
    (lambda g: g.task.conversation.SetInParent(), "task.conversation", "malformed"),
    (lambda g: g.task.token_ids.ids.append(100), "task.token_ids.ids[0]", "bad_token"),
    (lambda g: g.task.token_ids.SetInParent(), "task.token_ids", "wrong_length"),
    (lambda g: g.task.conversation.messages.add(role="robot"), "task.conversation.messages[0].role", "malformed"),
    (lambda g: g.task.tools.add(name="f", parameters_json="[" * 60000), "task.tools[0].parameters_json", "malformed"),
    (lambda g: g.task.tools.add(name="f", parameters_json="[]"), "task.tools[0].parameters_json", "malformed"),
    (lambda g: setattr(g.task.sampling, "top_p", 0.0), "task.sampling.top_p", "malformed"),
    (lambda g: setattr(g.task.sampling, "temperature", math.nan), "task.sampling.temperature", "malformed"),
    (lambda g: setattr(g.task.sampling, "max_new_tokens", 0), "task.sampling.max_new_tokens", "malformed"),
    (lambda g: g.task.sampling.stop_token_ids.append(100), "task.sampling.stop_token_ids[0]", "bad_token"),
]


def test_the_group_that_faults_are_put_into_is_a_good_one() -> None:
    assert len(codec.group_from_proto(good_group(), limits=LIMITS).trajectories) == 2


@pytest.mark.parametrize(("change", "field", "reason"), FAULTS, ids=[f"{f}-{r}" for _, f, r in FAULTS])
def test_a_fault_is_refused_by_field_and_reason(change: Callable[[Group], None], field: str, reason: str) -> None:
    group = good_group()
    change(group)
    with pytest.raises(InvalidRequest) as caught:
        codec.group_from_proto(group, limits=LIMITS)
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert str(caught.value).startswith(f"{field}: ")
    assert reason in codec.REASONS


def test_every_reason_is_met_by_some_fault() -> None:
    assert {reason for _, _, reason in FAULTS} == set(codec.REASONS)


def test_a_teacher_with_its_own_tokenizer_may_have_tokens_that_the_policy_has_not() -> None:
    group = good_group()
    put("teacher_scores[0].top_ids", ids(2**32 - 1, 2, 3))(group)
    with pytest.raises(InvalidRequest, match=r"teacher_scores\[0\].top_ids\[0\]"):
        codec.group_from_proto(group, limits=LIMITS)
    group.trajectories[1].teacher_scores[0].span_lengths.extend([1])
    group.trajectories[1].teacher_scores[0].matched_share = 0.5
    (scores,) = codec.group_from_proto(group, limits=LIMITS).trajectories[1].teacher_scores
    assert scores.top_ids[0, 0] == -1
    assert scores.shared_fraction == 0.5
    put("teacher_scores[0].top_ids", ids(5000, 2, 3))(group)
    with pytest.raises(InvalidRequest, match=r"teacher_scores\[0\].top_ids\[0\]"):
        codec.group_from_proto(group, limits=LIMITS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dtype": "int8"}, "tensors[0].dtype"),
        ({"num_bytes": 9}, "tensors[0].num_bytes"),
        ({"shape": [2**62, 2**62]}, "tensors[0].num_bytes"),
        ({"shape": [1] * 9}, "tensors[0].shape"),
        ({"digest": "xyz"}, "tensors[0].digest"),
        ({"name": ""}, "tensors[0].name"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, Any], field: str) -> None:
    spec = {"name": "a", "shape": [2, 1], "dtype": "float32", "digest": "ab", "num_bytes": 8} | changes
    message = policy_pb2.PolicyVersion(
        version=2, tensors=[policy_pb2.TensorSpec(**spec)], digest="cd", total_bytes=spec["num_bytes"]
    )
    with pytest.raises(InvalidRequest) as caught:
        codec.policy_from_proto(message)
    assert caught.value.field == field


def test_a_version_lies_after_its_parent_and_names_a_tensor_once() -> None:
    tensor = policy_pb2.TensorSpec(name="a", dtype="float32", digest="ab", num_bytes=4)
    twice = policy_pb2.PolicyVersion(version=2, tensors=[tensor, tensor], digest="cd", total_bytes=8)
    with pytest.raises(InvalidRequest, match=r"tensors\[1\]\.name: is 'a', as of an earlier tensor"):
        codec.policy_from_proto(twice)
    backwards = policy_pb2.PolicyVersion(version=2, parent_version=2, tensors=[tensor], digest="cd", total_bytes=4)
    with pytest.raises(InvalidRequest, match="parent_version"):
        codec.policy_from_proto(backwards)


DECODERS: list[tuple[type[Any], Callable[[Any], Any]]] = [
    (trajectory_pb2.RolloutGroup, lambda message: codec.group_from_proto(message, limits=LIMITS)),
    (trajectory_pb2.Trajectory, codec.trajectory_from_proto),
    (trajectory_pb2.TeacherScores, codec.scores_from_proto),
    (verdict_pb2.Verdict, codec.verdict_from_proto),
    (policy_pb2.PolicyVersion, codec.policy_from_proto),
    (stream_pb.Lease, codec.lease_from_proto),
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_group_or_an_invalid_request(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        codec.group_from_bytes(data, limits=LIMITS)


@settings(max_examples=60, deadline=None)
@given(wire.groups(), st.randoms(use_true_random=False))
def test_a_group_with_garbled_bytes_is_a_group_or_an_invalid_request(group: Any, random: Random) -> None:
    whole = codec.group_to_bytes(group)
    for _ in range(20):  # to make a group takes longer than to garble and to read it
        raw = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            where = random.randrange(len(raw) + 1)
            raw[where : where + random.randint(0, 3)] = random.randbytes(random.randint(0, 3))
        try:
            codec.group_from_bytes(bytes(raw), limits=LIMITS)
        except InvalidRequest as error:
            assert error.reason in codec.REASONS


@pytest.mark.parametrize(("message", "decode"), DECODERS, ids=[m.__name__ for m, _ in DECODERS])
def test_any_values_in_any_fields_are_a_record_or_an_invalid_request(message: Any, decode: Any) -> None:
    @settings(max_examples=100, deadline=None)
    @given(filled(message.DESCRIPTOR))
    def check(value: Any) -> None:
        try:
            decode(value)
        except InvalidRequest as error:
            assert error.reason in codec.REASONS

    check()


def filled(descriptor: Any) -> st.SearchStrategy[Any]:
    """Messages of a type with any values in any of their fields, each of its wire type."""
    fields = {field.name: values(field) for field in descriptor.fields}
    known = st.fixed_dictionaries({}, optional=fields)
    return known.map(lambda chosen: descriptor._concrete_class(**chosen))


def values(field: Any) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return st.dictionaries(scalars(entry["key"]), scalars(entry["value"]), max_size=2)
    one = st.deferred(lambda: filled(field.message_type)) if field.message_type else scalars(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def scalars(field: Any) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case field.CPPTYPE_UINT32:
            return st.integers(0, 3) | st.integers(0, 2**32 - 1)
        case field.CPPTYPE_UINT64:
            return st.integers(0, 3) | st.integers(0, 2**64 - 1)
        case field.CPPTYPE_ENUM:
            return st.integers(0, 9)
        case field.CPPTYPE_DOUBLE | field.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case field.CPPTYPE_BOOL:
            return st.booleans()
        case field.CPPTYPE_STRING if field.type == field.TYPE_BYTES:
            return st.binary(max_size=4)
        case field.CPPTYPE_STRING:
            return st.text(st.characters(codec="utf-8"), max_size=4)
    raise AssertionError(f"{field.full_name}: {field.cpp_type} has no strategy")
