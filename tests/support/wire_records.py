"""Hypothesis strategies for everything that travels, and equality of records that hold arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
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
    Message,
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
from rlserve.records.verdict import LARGEST_REWARD

VOCABULARY = 1000

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
texts = st.text(st.characters(codec="utf-8"), max_size=50)
numbers = st.floats(allow_nan=False, allow_infinity=False)
rewards = st.floats(-LARGEST_REWARD, LARGEST_REWARD)
seconds = st.floats(0, 1e9)
seeds = st.integers(0, 2**64 - 1)
indices = st.integers(0, 2**63 - 1)
counts = st.integers(0, 2**32 - 1)
sampling = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 10),
    top_p=st.none() | st.floats(0.01, 1),
    max_new_tokens=st.none() | st.integers(1, 10_000),
    stop=st.lists(words, max_size=3).map(tuple),
    stop_token_ids=st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
)
given_completions = st.builds(
    GivenCompletion,
    text=words,
    chosen=st.none() | st.booleans(),
    pair=counts,
    supervised_weight=st.floats(0, 10, width=32),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=texts,
    tool_call_id=texts,
    tool_calls=st.lists(texts, max_size=2).map(tuple),
)
prompts = (
    texts
    | st.lists(messages, min_size=1, max_size=3).map(tuple)
    | st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8).map(tuple)
)
tools = st.builds(Tool, name=words, description=texts, parameters_json=st.sampled_from(["{}", '{"type": "object"}']))
tasks = st.builds(
    Task,
    environment=words,
    environment_version=texts,
    split=words,
    index=indices,
    task_id=words,
    prompt=prompts,
    verifier=words,
    payload=st.binary(max_size=20),
    seed=seeds,
    sampling=sampling,
    multi_turn=st.booleans(),
    tools=st.lists(tools, max_size=2).map(tuple),
    labels=st.dictionaries(texts, texts, max_size=2),
    given=st.lists(given_completions, max_size=2).map(tuple),
)
leases = st.builds(
    Lease,
    group_id=words,
    environment=words,
    split=words,
    index=indices,
    seed=seeds,
    num_samples=st.integers(1, 1000),
    purpose=st.sampled_from(Purpose),
    limit_seconds=seconds,
    temperature=st.none() | st.floats(0, 10),
    max_new_tokens=st.none() | st.integers(1, 10_000),
    usual_sampling=sampling,
    nonce=words,
)
failures = st.builds(Failure, source=words, kind=st.sampled_from(FailureKind), message=texts, retriable=st.booleans())


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    outcome = draw(st.sampled_from(Outcome))
    judged = outcome is not Outcome.NO_VERDICT
    total = draw(counts)
    return Verdict(
        outcome=outcome,
        reward=draw(rewards) if judged else 0.0,
        parts=draw(st.dictionaries(texts, numbers, max_size=3)),
        reason=draw(texts),
        failure=None if judged else draw(failures),
        verifier=draw(texts),
        seconds=draw(seconds),
        passed=draw(st.integers(0, total)),
        total=total,
        isolation=draw(texts),
        output=draw(texts),
    )


@st.composite
def runs(draw: st.DrawFn, total: int) -> list[int]:
    """Lengths >= 1 that add up to ``total``."""
    cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=4))) if total > 1 else []
    return [int(n) for n in np.diff([0, *cuts, total])] if total else []


def logprob_arrays(size: int) -> st.SearchStrategy[np.ndarray]:
    values = st.floats(-1000, 0, width=32)
    return st.lists(values, min_size=size, max_size=size).map(lambda v: np.array(v, dtype=np.float32))


def id_arrays(size: int) -> st.SearchStrategy[np.ndarray]:
    ids = st.integers(0, VOCABULARY - 1)
    return st.lists(ids, min_size=size, max_size=size).map(lambda v: np.array(v, dtype=np.int64))


@st.composite
def teacher_scores(draw: st.DrawFn, num_scored: int) -> TeacherScores:
    k = draw(st.integers(0, 3))
    return TeacherScores(
        teacher=draw(words),
        tokenizer_fingerprint=draw(texts),
        weights_digest=draw(texts),
        logprobs=draw(logprob_arrays(num_scored)),
        top_ids=draw(id_arrays(num_scored * k)).reshape(num_scored, k),
        top_logprobs=draw(logprob_arrays(num_scored * k)).reshape(num_scored, k),
        log_tail=draw(logprob_arrays(num_scored if k else 0)),
        temperature=draw(st.floats(0, 10)),
        span_lengths=np.ones(draw(st.integers(0, num_scored)), np.int64),
    )


@st.composite
def trajectories(draw: st.DrawFn, sample_index: int = 0) -> Trajectory:
    num_tokens = draw(st.integers(1, 12))
    segments = tuple(
        Segment(kind=draw(st.sampled_from(SegmentKind)), length=n, turn=draw(st.integers(0, 5)))
        for n in draw(runs(num_tokens))
    )
    num_sampled = sum(s.length for s in segments if s.kind is SegmentKind.SAMPLED)
    lengths = draw(runs(num_sampled))
    versions = sorted(draw(st.lists(indices, min_size=len(lengths), max_size=len(lengths))))
    weights = draw(st.sampled_from([1, num_tokens]))
    return Trajectory(
        sample_index=sample_index,
        token_ids=draw(id_arrays(num_tokens)),
        segments=segments,
        behavior_logprobs=draw(logprob_arrays(num_sampled)),
        policy_spans=tuple(PolicySpan(v, n) for v, n in zip(versions, lengths, strict=True)),
        finish_reason=draw(st.sampled_from(FinishReason)),
        verdict=draw(st.none() | verdicts()),
        teacher_scores=tuple(draw(st.lists(teacher_scores(num_sampled), max_size=2))),
        objective_weights=(ObjectiveWeights(objective=draw(words), weights=draw(logprob_arrays(weights))),),
        completion=draw(texts),
        temperature=draw(st.floats(0, 10)),
        top_p=draw(st.floats(0.01, 1)),
        seed=draw(seeds),
        started_unix_seconds=draw(seconds),
        finished_unix_seconds=draw(seconds),
        preference_role=draw(st.sampled_from(PreferenceRole)),
        pair_index=draw(counts),
        generation_seconds=draw(seconds),
        verification_seconds=draw(seconds),
    )


@st.composite
def groups(draw: st.DrawFn) -> RolloutGroup:
    numbers = draw(st.lists(counts, min_size=1, max_size=3, unique=True))
    return RolloutGroup(
        group_id=draw(words),
        task=draw(tasks),
        trajectories=tuple(draw(trajectories(sample_index=number)) for number in numbers),
        worker_id=draw(words),
        tokenizer_fingerprint=draw(texts),
        run_id=draw(texts),
        purpose=draw(st.sampled_from(Purpose)),
    )


@st.composite
def policies(draw: st.DrawFn) -> PolicyVersion:
    digests = st.text("0123456789abcdef", min_size=8, max_size=64)
    names = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    tensors = []
    for name in names:
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
        dtype = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
        size = int(np.prod(shape)) * (4 if dtype == "float32" else 2)
        tensors.append(TensorSpec(name=name, shape=shape, dtype=dtype, digest=draw(digests), num_bytes=size))
    version = draw(indices)
    return PolicyVersion(
        version=version,
        tensors=tuple(tensors),
        digest=draw(digests),
        parent_version=draw(st.none() | st.integers(0, version - 1)) if version else None,
        published_unix_seconds=draw(seconds),
        run_id=draw(texts),
        is_final=draw(st.booleans()),
    )


actors = st.builds(
    Actor,
    actor_id=words,
    kind=st.sampled_from(ActorKind),
    address=st.sampled_from(["127.0.0.1:1", "host:65535", "[::1]:80", "unix:socket"]),
    incarnation=words,
    host=texts,
    pid=counts,
    serves=st.lists(words, max_size=3).map(tuple),
    status=st.dictionaries(texts, texts, max_size=3),
    registered_unix_seconds=seconds,
    last_seen_unix_seconds=seconds,
    run_id=texts,
)
environments = st.builds(
    EnvironmentSpec,
    name=words,
    version=words,
    address=st.just("127.0.0.1:1"),
    payload_schema_json=st.sampled_from(["", '{"type": "object"}']),
    splits=st.dictionaries(words, indices, min_size=1, max_size=3),
    verifier=texts,
    weight=st.floats(0, 1e6),
    multi_turn=st.booleans(),
    description=texts,
    held_out=st.lists(words, max_size=3).map(tuple),
    sampling=st.builds(Sampling, temperature=st.none() | st.floats(0.1, 2.0), max_new_tokens=st.none() | st.just(9)),
    command=st.lists(words, max_size=3).map(tuple),
)
run_states = st.builds(
    RunState,
    run_id=words,
    phase=st.sampled_from(RunPhase),
    step=indices,
    total_steps=indices,
    metrics=st.dictionaries(texts, st.floats(), max_size=3),
    groups=st.dictionaries(texts, indices, max_size=3),
    updated_unix_seconds=seconds,
    message=texts,
)


def same(left: Any, right: Any) -> bool:
    """Equal in type, value, dtype and shape, all the way down; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right) or (left != left and right != right)
