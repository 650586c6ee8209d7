"""What was encoded decodes to the same, for every record that travels."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.records import (
    Actor,
    ActorKind,
    EnvironmentSpec,
    Failure,
    FailureKind,
    FinishReason,
    GivenCompletion,
    Lease,
    ObjectiveWeights,
    Outcome,
    PolicySpan,
    PolicyVersion,
    PreferenceRole,
    Purpose,
    RolloutGroup,
    RunPhase,
    RunState,
    Sampling,
    Segment,
    SegmentKind,
    Task,
    TeacherScores,
    TensorSpec,
    Tool,
    Trajectory,
    Verdict,
)
from rlserve.rpc import codec
from tests.support import wire_records as wire

quick = settings(max_examples=60, deadline=None)

PAIRS: list[tuple[st.SearchStrategy[Any], Callable[..., Any], Callable[..., Any]]] = [
    (wire.tasks, codec.task_to_proto, codec.task_from_proto),
    (wire.sampling, codec.sampling_to_proto, codec.sampling_from_proto),
    (wire.messages, codec.message_to_proto, codec.message_from_proto),
    (wire.leases, codec.lease_to_proto, codec.lease_from_proto),
    (wire.failures, codec.failure_to_proto, codec.failure_from_proto),
    (wire.verdicts(), codec.verdict_to_proto, codec.verdict_from_proto),
    (wire.teacher_scores(3), codec.scores_to_proto, codec.scores_from_proto),
    (wire.trajectories(), codec.trajectory_to_proto, codec.trajectory_from_proto),
    (wire.groups(), codec.group_to_proto, codec.group_from_proto),
    (wire.policies(), codec.policy_to_proto, codec.policy_from_proto),
    (wire.actors, codec.actor_to_proto, codec.actor_from_proto),
    (wire.environments, codec.environment_to_proto, codec.environment_from_proto),
    (wire.run_states, codec.run_state_to_proto, codec.run_state_from_proto),
]


@pytest.mark.parametrize(("records", "encode", "decode"), PAIRS, ids=[pair[1].__name__ for pair in PAIRS])
def test_a_record_survives_the_wire(records: Any, encode: Any, decode: Any) -> None:
    @quick
    @given(records)
    def check(record: Any) -> None:
        message = encode(record)
        assert wire.same(decode(type(message).FromString(message.SerializeToString())), record)

    check()


@quick
@given(wire.groups())
def test_a_group_survives_as_bytes_within_its_limits(group: RolloutGroup) -> None:
    limits = codec.GroupLimits(vocab_size=wire.VOCABULARY, max_tokens=12, max_trajectories=3)
    assert wire.same(codec.group_from_bytes(codec.group_to_bytes(group), limits=limits), group)


VERDICT = Verdict(
    outcome=Outcome.PASS,
    reward=1.0,
    parts={"match": 1.0},
    reason="equal",
    verifier="math",
    seconds=0.5,
    passed=1,
    total=2,
    isolation="namespace",
    output="ok",
)
SCORES = TeacherScores(
    teacher="big",
    tokenizer_fingerprint="t",
    weights_digest="d",
    logprobs=np.array([-1.0], np.float32),
    top_ids=np.array([[4]], np.int64),
    top_logprobs=np.array([[-0.5]], np.float32),
    log_tail=np.array([-0.9], np.float32),
    temperature=0.7,
    span_lengths=np.array([1], np.int64),
)
TRAJECTORY = Trajectory(
    sample_index=3,
    token_ids=np.array([1, 2], np.int64),
    segments=(Segment(kind=SegmentKind.GIVEN, length=1), Segment(kind=SegmentKind.SAMPLED, length=1, turn=1)),
    behavior_logprobs=np.array([-0.5], np.float32),
    policy_spans=(PolicySpan(7, 1),),
    finish_reason=FinishReason.STOP,
    verdict=VERDICT,
    teacher_scores=(SCORES,),
    objective_weights=(ObjectiveWeights(objective="policy", weights=np.array([1.0], np.float32)),),
    completion="b",
    temperature=0.9,
    top_p=0.8,
    seed=5,
    started_unix_seconds=1.0,
    finished_unix_seconds=2.0,
    preference_role=PreferenceRole.CHOSEN,
    pair_index=1,
    generation_seconds=3.0,
    verification_seconds=4.0,
)
TASK = Task(
    environment="arithmetic",
    environment_version="2",
    split="train",
    index=4,
    task_id="arithmetic:4",
    prompt="3+8=",
    verifier="exact",
    payload=b"1",
    seed=9,
    sampling=Sampling(temperature=0.5, top_p=0.9, max_new_tokens=8, stop=("\n",), stop_token_ids=(0,)),
    multi_turn=True,
    tools=(Tool(name="sum"),),
    labels={"digits": "2"},
    given=(GivenCompletion(text="11", chosen=False, pair=1, supervised_weight=0.5),),
)
GROUP = RolloutGroup(
    group_id="g",
    task=TASK,
    trajectories=(TRAJECTORY,),
    worker_id="w",
    tokenizer_fingerprint="t",
    run_id="r",
    purpose=Purpose.EVALUATE,
)
TENSOR = TensorSpec(name="a", shape=(2,), dtype="float32", digest="ab", num_bytes=8)
POLICY = PolicyVersion(
    version=2,
    tensors=(TENSOR,),
    digest="cd",
    parent_version=1,
    published_unix_seconds=1.0,
    run_id="r",
    is_final=True,
)
ACTOR = Actor(
    actor_id="v-0",
    kind=ActorKind.VERIFIER,
    address="127.0.0.1:1",
    incarnation="i",
    host="h",
    pid=1,
    serves=("math",),
    status={"a": "b"},
    registered_unix_seconds=1.0,
    last_seen_unix_seconds=2.0,
    run_id="r",
)
ENVIRONMENT = EnvironmentSpec(
    name="e",
    version="1",
    address="127.0.0.1:1",
    payload_schema_json="{}",
    splits={"train": 1},
    verifier="math",
    weight=1.0,
    multi_turn=True,
    description="d",
    held_out=("dev",),
    sampling=Sampling(temperature=0.5, max_new_tokens=7),
    command=("serve", "--port"),
)
STATE = RunState(
    run_id="r",
    phase=RunPhase.TRAINING,
    step=1,
    total_steps=2,
    metrics={"a": 1.0},
    groups={"received": 1},
    updated_unix_seconds=1.0,
    message="m",
)
LEASE = Lease(
    group_id="g",
    environment="e",
    split="train",
    index=1,
    seed=2,
    num_samples=3,
    limit_seconds=4.0,
    temperature=0.5,
    max_new_tokens=6,
    nonce="n",
)
FAILURE = Failure(source="verifier:math", kind=FailureKind.CRASH, message="died", retriable=True)
# Fields that no record holds: the base policy has no adapter.
WITHOUT_RECORD = {"adapter"}
# Set only when there is no verdict.
EXCLUSIVE = {"no_verdict"}


@pytest.mark.parametrize(
    "message",
    [
        codec.group_to_proto(GROUP),
        codec.task_to_proto(TASK),
        codec.task_to_proto(TASK).given[0],
        codec.sampling_to_proto(TASK.sampling),
        codec.trajectory_to_proto(TRAJECTORY),
        codec.scores_to_proto(SCORES),
        codec.verdict_to_proto(VERDICT),
        codec.failure_to_proto(FAILURE),
        codec.policy_to_proto(POLICY),
        codec.actor_to_proto(ACTOR),
        codec.environment_to_proto(ENVIRONMENT),
        codec.run_state_to_proto(STATE),
        codec.lease_to_proto(LEASE),
    ],
    ids=lambda message: type(message).__name__,
)
def test_no_field_of_a_message_is_forgotten(message: Any) -> None:
    given = {field.name for field, _ in message.ListFields()}
    in_a_choice = {
        field.name for choice in message.DESCRIPTOR.oneofs for field in choice.fields if len(choice.fields) > 1
    }
    expected = {field.name for field in message.DESCRIPTOR.fields} - in_a_choice - WITHOUT_RECORD - EXCLUSIVE
    assert expected <= given


def test_a_lone_surrogate_in_a_completion_does_not_stop_the_group() -> None:
    odd = dataclasses.replace(TRAJECTORY, completion="a\ud800b")
    assert codec.trajectory_from_proto(codec.trajectory_to_proto(odd)).completion == "a?b"


def test_empty_runs_are_left_out() -> None:
    odd = dataclasses.replace(
        TRAJECTORY,
        segments=(*TRAJECTORY.segments, Segment(kind=SegmentKind.SAMPLED, length=0)),
        policy_spans=(*TRAJECTORY.policy_spans, PolicySpan(8, 0)),
    )
    back = codec.trajectory_from_proto(codec.trajectory_to_proto(odd))
    assert (back.segments, back.policy_spans) == (TRAJECTORY.segments, TRAJECTORY.policy_spans)


def test_a_teacher_whose_top_k_holds_everything_has_no_tail() -> None:
    full = dataclasses.replace(SCORES, log_tail=np.array([-np.inf], np.float32))
    assert codec.scores_from_proto(codec.scores_to_proto(full)).log_tail[0] == -np.inf


def test_a_large_group_decodes_in_milliseconds() -> None:
    """64 trajectories of 2048 tokens take 1 to 2 ms on a quiet core; the bound leaves room for a busy one."""
    generator = np.random.default_rng(0)
    sampled = 1900
    members = tuple(
        dataclasses.replace(
            TRAJECTORY,
            sample_index=i,
            token_ids=generator.integers(0, 150_000, 2048),
            segments=(
                Segment(kind=SegmentKind.GIVEN, length=148),
                Segment(kind=SegmentKind.SAMPLED, length=sampled),
            ),
            behavior_logprobs=-generator.random(sampled, dtype=np.float32),
            policy_spans=(PolicySpan(7, 1000), PolicySpan(8, 900)),
            teacher_scores=(),
        )
        for i in range(64)
    )
    message = codec.group_to_proto(dataclasses.replace(GROUP, trajectories=members))
    limits = codec.GroupLimits(vocab_size=150_000, max_tokens=2048, max_trajectories=64)
    best = min(_seconds(lambda: codec.group_from_proto(message, limits=limits)) for _ in range(5))
    assert best < 0.02


def _seconds(function: Callable[[], object]) -> float:
    started = time.thread_time()
    function()
    return time.thread_time() - started
