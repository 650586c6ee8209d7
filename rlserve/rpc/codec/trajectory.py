"""Trajectory on the wire. Shape letters: T tokens, S sampled tokens among them.

Arrays are checked with numpy, run lengths by their sums: a token costs no Python work.
"""

import functools
import math

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
_NUMBERS = {
    "temperature": math.inf,
    "top_p": 1.0,
    "started_unix_seconds": math.inf,
    "finished_unix_seconds": math.inf,
    "generation_seconds": math.inf,
    "verification_seconds": math.inf,
}
"""Fields of a trajectory from 0 up to the bound."""


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
    segments, num_sampled = _segments(message, at, num_tokens=len(tokens))
    temperature, top_p = message.temperature, message.top_p
    started, finished = message.started_unix_seconds, message.finished_unix_seconds
    generation, verification = message.generation_seconds, message.verification_seconds
    # One look at all of them: a learner decodes thousands of trajectories a second. NaN fails every comparison.
    if not (
        0 <= temperature < math.inf
        and 0 <= top_p <= 1
        and 0 <= started < math.inf
        and 0 <= finished < math.inf
        and 0 <= generation < math.inf
        and 0 <= verification < math.inf
    ):
        for field, high in _NUMBERS.items():
            finite(getattr(message, field), at, field, low=0, high=high)
    return Trajectory(
        sample_index=message.sample_index,
        token_ids=tokens,
        segments=segments,
        behavior_logprobs=logprobs(message.behavior_logprobs, at, "behavior_logprobs", length=num_sampled),
        policy_spans=_spans(message, at, num_sampled=num_sampled),
        finish_reason=FINISH_REASON.decode(message.finish_reason, at, "finish_reason"),
        verdict=verdict_from_proto(message.verdict, join(at, "verdict")) if message.HasField("verdict") else None,
        teacher_scores=_scores(message, at, num_sampled, limits.vocab_size) if message.teacher_scores else (),
        objective_weights=_weights(message, at, num_tokens=len(tokens)) if message.objective_weights else (),
        completion=message.completion,
        temperature=temperature,
        top_p=top_p or 1.0,  # 0 is "unset" here: the field is not optional
        seed=message.seed,
        started_unix_seconds=started,
        finished_unix_seconds=finished,
        preference_role=PREFERENCE_ROLE.decode(message.preference_role, at, "preference_role"),
        pair_index=message.pair_index,
        generation_seconds=generation,
        verification_seconds=verification,
    )


def _tokens(message: pb.Trajectory, at: str, limits: GroupLimits) -> npt.NDArray[np.int64]:
    tokens = token_ids(message.token_ids, at, "token_ids", vocab_size=limits.vocab_size)
    if not len(tokens):
        fault(at, "token_ids", "is empty; give at least the prompt's tokens", "wrong_length")
    if limits.max_tokens is not None and len(tokens) > limits.max_tokens:
        fault(at, "token_ids", f"has {len(tokens)} tokens; at most {limits.max_tokens}", "too_long")
    return tokens


def _segments(message: pb.Trajectory, at: str, *, num_tokens: int) -> tuple[tuple[Segment, ...], int]:
    """The segments, which cover all tokens, and the number of sampled tokens: arrays over those are held to it."""
    runs = message.segments
    # First, so that a message of millions of empty runs costs one comparison.
    if len(runs) > num_tokens:
        fault(at, "segments", f"has {len(runs)} runs for {num_tokens} tokens; omit empty runs", "wrong_length")
    segments, covered, num_sampled = [], 0, 0
    for i, run in enumerate(runs):
        length = run.length
        if not length:
            fault(at, f"segments[{i}].length", "is 0; omit empty runs", "wrong_length")
        kind = SEGMENT_KIND.find(run.kind) or SEGMENT_KIND.decode(run.kind, at, f"segments[{i}].kind")
        segments.append(_segment(kind, length, run.turn))
        covered += length
        if kind is SegmentKind.SAMPLED:
            num_sampled += length
    if covered != num_tokens:
        fault(at, "segments", f"cover {covered} tokens; there are {num_tokens} tokens", "wrong_length")
    return tuple(segments), num_sampled


@functools.lru_cache(maxsize=4096)  # prompts and completions have few lengths; any size will do that holds them
def _segment(kind: SegmentKind, length: int, turn: int) -> Segment:
    return Segment(kind=kind, length=length, turn=turn)


def _spans(message: pb.Trajectory, at: str, *, num_sampled: int) -> tuple[PolicySpan, ...]:
    runs = message.policy_spans
    if len(runs) > num_sampled:  # first, as for segments
        fault(
            at,
            "policy_spans",
            f"has {len(runs)} runs for {num_sampled} sampled tokens; omit empty runs",
            "wrong_length",
        )
    spans, covered, previous = [], 0, 0
    for i, run in enumerate(runs):
        version, length = run.version, run.length
        if not length:
            fault(at, f"policy_spans[{i}].length", "is 0; omit empty runs", "wrong_length")
        if version < previous:
            problem = f"is {version} after {previous}; give versions in ascending order"
            fault(at, f"policy_spans[{i}].version", problem, "bad_version")
        if version > MAX_INT64:
            fault(at, f"policy_spans[{i}].version", f"is {version}; give an optimizer step", "bad_version")
        spans.append(PolicySpan(version, length))
        covered += length
        previous = version
    if covered != num_sampled:
        fault(at, "policy_spans", f"cover {covered} tokens; there are {num_sampled} sampled tokens", "wrong_length")
    return tuple(spans)


def _scores(message: pb.Trajectory, at: str, num_sampled: int, vocab_size: int | None) -> tuple[TeacherScores, ...]:
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
