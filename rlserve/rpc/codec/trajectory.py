"""Trajectory on the wire. Shape letters: T tokens, S sampled tokens among them.

Arrays are checked with numpy, run lengths by their sums: a token costs no Python work.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rlserve.records import (
    FinishReason,
    ObjectiveWeights,
    PolicySpan,
    PreferenceRole,
    Segment,
    SegmentKind,
    TeacherScores,
    Trajectory,
)
from rlserve.rpc.codec.check import (
    MAX_INT64,
    EnumCodec,
    count,
    fault,
    finite,
    join,
    logprobs,
    text,
    token_ids,
    wire_text,
)
from rlserve.rpc.codec.limits import GroupLimits
from rlserve.rpc.codec.scores import scores_from_proto, scores_to_proto
from rlserve.rpc.codec.verdict import verdict_from_proto, verdict_to_proto
from rlserve.v1 import trajectory_pb2 as pb

SEGMENT_KIND = EnumCodec(pb.SegmentKind, "SEGMENT_KIND", SegmentKind)
FINISH_REASON = EnumCodec(pb.FinishReason, "FINISH_REASON", FinishReason)
PREFERENCE_ROLE = EnumCodec(pb.PreferenceRole, "PREFERENCE_ROLE", PreferenceRole, unspecified=PreferenceRole.NONE)
MAX_SCORES = 32  # as in bounds.BOUNDS, which leaves groups to this module

_Run = pb.Segment | pb.PolicySpan


def trajectory_to_proto(trajectory: Trajectory) -> pb.Trajectory:
    """Encode a trajectory, without empty runs."""
    # tolist: protobuf takes Python numbers several times faster than numpy scalars.
    return pb.Trajectory(
        sample_index=trajectory.sample_index,
        token_ids=trajectory.token_ids.tolist(),
        segments=[
            pb.Segment(kind=SEGMENT_KIND.encode(s.kind), length=s.length, turn=s.turn)
            for s in trajectory.segments
            if s.length
        ],
        behavior_logprobs=trajectory.behavior_logprobs.tolist(),
        policy_spans=[pb.PolicySpan(version=s.version, length=s.length) for s in trajectory.policy_spans if s.length],
        finish_reason=FINISH_REASON.encode(trajectory.finish_reason),
        verdict=verdict_to_proto(trajectory.verdict) if trajectory.verdict else None,
        teacher_scores=[scores_to_proto(scores) for scores in trajectory.teacher_scores],
        objective_weights=[
            pb.ObjectiveWeights(objective=w.objective, weights=w.weights.tolist()) for w in trajectory.objective_weights
        ],
        completion=wire_text(trajectory.completion),
        temperature=trajectory.temperature,
        top_p=trajectory.top_p,
        seed=trajectory.seed,
        started_unix_seconds=trajectory.started_unix_seconds,
        finished_unix_seconds=trajectory.finished_unix_seconds,
        preference_role=PREFERENCE_ROLE.encode(trajectory.preference_role),
        pair_index=trajectory.pair_index,
        generation_seconds=trajectory.generation_seconds,
        verification_seconds=trajectory.verification_seconds,
    )


def trajectory_from_proto(message: pb.Trajectory, at: str = "", *, limits: GroupLimits | None = None) -> Trajectory:
    """Decode a trajectory, checking every field. Raises InvalidRequest."""
    limits = limits or GroupLimits()
    tokens = _tokens(message, at, limits)
    segments = _segments(message, at, num_tokens=len(tokens))
    # From the segments, whose sum was just checked: all arrays over sampled tokens are held to this number.
    num_sampled = sum([s.length for s in segments if s.kind is SegmentKind.SAMPLED])
    return Trajectory(
        sample_index=message.sample_index,
        token_ids=tokens,
        segments=segments,
        behavior_logprobs=logprobs(message.behavior_logprobs, at, "behavior_logprobs", length=num_sampled),
        policy_spans=_spans(message, at, num_sampled=num_sampled),
        finish_reason=FINISH_REASON.decode(message.finish_reason, at, "finish_reason"),
        verdict=verdict_from_proto(message.verdict, join(at, "verdict")) if message.HasField("verdict") else None,
        teacher_scores=_scores(message, at, num_sampled, limits.vocab_size),
        objective_weights=_weights(message, at, num_tokens=len(tokens)),
        completion=message.completion,
        temperature=finite(message.temperature, at, "temperature", low=0),
        top_p=finite(message.top_p, at, "top_p", low=0, high=1) or 1.0,  # 0 is "unset" here: the field is not optional
        seed=message.seed,
        started_unix_seconds=finite(message.started_unix_seconds, at, "started_unix_seconds", low=0),
        finished_unix_seconds=finite(message.finished_unix_seconds, at, "finished_unix_seconds", low=0),
        preference_role=PREFERENCE_ROLE.decode(message.preference_role, at, "preference_role"),
        pair_index=message.pair_index,
        generation_seconds=finite(message.generation_seconds, at, "generation_seconds", low=0),
        verification_seconds=finite(message.verification_seconds, at, "verification_seconds", low=0),
    )


def _tokens(message: pb.Trajectory, at: str, limits: GroupLimits) -> npt.NDArray[np.int64]:
    tokens = token_ids(message.token_ids, at, "token_ids", vocab_size=limits.vocab_size)
    if not len(tokens):
        fault(at, "token_ids", "is empty; give at least the prompt's tokens", "wrong_length")
    if limits.max_tokens is not None and len(tokens) > limits.max_tokens:
        fault(at, "token_ids", f"has {len(tokens)} tokens; at most {limits.max_tokens}", "too_long")
    return tokens


def _segments(message: pb.Trajectory, at: str, *, num_tokens: int) -> tuple[Segment, ...]:
    runs = list(message.segments)
    lengths = _checked_lengths(runs, at, "segments", total=num_tokens, what="tokens")
    segments = []
    for i, (run, length) in enumerate(zip(runs, lengths, strict=True)):
        kind = SEGMENT_KIND.find(run.kind) or SEGMENT_KIND.decode(run.kind, at, f"segments[{i}].kind")
        segments.append(Segment(kind=kind, length=length, turn=run.turn))
    return tuple(segments)


def _spans(message: pb.Trajectory, at: str, *, num_sampled: int) -> tuple[PolicySpan, ...]:
    runs = list(message.policy_spans)
    lengths = _checked_lengths(runs, at, "policy_spans", total=num_sampled, what="sampled tokens")
    spans, previous = [], 0
    for i, (run, length) in enumerate(zip(runs, lengths, strict=True)):
        version = run.version
        if version < previous:
            problem = f"is {version} after {previous}; give versions in ascending order"
            fault(at, f"policy_spans[{i}].version", problem, "bad_version")
        if version > MAX_INT64:
            fault(at, f"policy_spans[{i}].version", f"is {version}; give an optimizer step", "bad_version")
        spans.append(PolicySpan(version, length))
        previous = version
    return tuple(spans)


def _checked_lengths(runs: Sequence[_Run], at: str, field: str, *, total: int, what: str) -> list[int]:
    """The lengths of runs, which must cover ``total`` exactly."""
    # First, so that a message of millions of empty runs costs one comparison.
    if len(runs) > total:
        fault(at, field, f"has {len(runs)} runs for {total} {what}; omit empty runs", "wrong_length")
    lengths = [run.length for run in runs]
    if 0 in lengths:
        fault(at, f"{field}[{lengths.index(0)}].length", "is 0; omit empty runs", "wrong_length")
    covered = sum(lengths)
    if covered != total:
        fault(at, field, f"cover {covered} tokens; there are {total} {what}", "wrong_length")
    return lengths


def _scores(message: pb.Trajectory, at: str, num_sampled: int, vocab_size: int | None) -> tuple[TeacherScores, ...]:
    if not message.teacher_scores:
        return ()
    count(message.teacher_scores, at, "teacher_scores", high=MAX_SCORES)
    return tuple(
        scores_from_proto(
            scores,
            join(at, f"teacher_scores[{i}]"),
            num_scored=num_sampled,
            vocab_size=vocab_size,
        )
        for i, scores in enumerate(message.teacher_scores)
    )


def _weights(message: pb.Trajectory, at: str, *, num_tokens: int) -> tuple[ObjectiveWeights, ...]:
    count(message.objective_weights, at, "objective_weights", high=MAX_SCORES)
    found = []
    for i, entry in enumerate(message.objective_weights):
        where = join(at, f"objective_weights[{i}]")
        weights = np.array(entry.weights, dtype=np.float32)
        if len(weights) not in (1, num_tokens):  # one weight holds for all tokens
            fault(where, "weights", f"has {len(weights)} entries; give 1 or {num_tokens}", "wrong_length")
        if not np.isfinite(weights).all():
            fault(where, "weights", "contains NaN or infinity; give finite weights")
        found.append(ObjectiveWeights(objective=text(entry.objective, where, "objective"), weights=weights))
    return tuple(found)
