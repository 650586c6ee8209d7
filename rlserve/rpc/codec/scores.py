"""TeacherScores on the wire. Shape letters: S scored tokens, k top entries a token."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rlserve.records import TeacherScores
from rlserve.rpc.codec.check import MIN_LOGPROB, fault, finite, logprobs, text, token_ids, unpacked
from rlserve.v1 import trajectory_pb2 as pb

UNSHARED = 2**32 - 1
"""On the wire: a token missing from the policy's vocabulary. Ids are uint32 there, which has no -1."""
FLOATS, IDS = "<f4", "<u4"
"""Types of the packed arrays."""


def scores_to_proto(scores: TeacherScores) -> pb.TeacherScores:
    """Encode scores."""
    return pb.TeacherScores(
        teacher=scores.teacher,
        tokenizer_fingerprint=scores.tokenizer_fingerprint,
        weights_digest=scores.weights_digest,
        logprobs=scores.logprobs.astype(FLOATS).tobytes(),
        k=scores.top_ids.shape[1],
        top_ids=np.where(scores.top_ids < 0, UNSHARED, scores.top_ids).astype(IDS).tobytes(),
        top_logprobs=scores.top_logprobs.astype(FLOATS).tobytes(),
        log_tail=scores.log_tail.astype(FLOATS).tobytes(),
        temperature=scores.temperature,
        span_lengths=scores.span_lengths.tolist(),
        matched_share=scores.shared_fraction if len(scores.span_lengths) else None,
    )


def scores_from_proto(
    message: pb.TeacherScores, at: str = "", *, num_scored: int | None = None, vocab_size: int | None = None
) -> TeacherScores:
    """Decode scores, checking every field. Raises InvalidRequest.

    ``num_scored`` is S (None: as many as the message has), ``vocab_size`` the size of the policy's vocabulary.
    """

    def floats(field: str, length: int | None, low: float = MIN_LOGPROB) -> npt.NDArray[np.float32]:
        values = unpacked(getattr(message, field), at, field, FLOATS)
        return logprobs(values, at, field, length=length, low=low)

    sampled = floats("logprobs", num_scored)
    size = len(sampled) * message.k
    top_ids = _top_ids(message, at, vocab_size)
    if len(top_ids) != size:
        fault(at, "top_ids", _size_problem(top_ids, len(sampled), message.k), "wrong_length")
    shape = (len(sampled), message.k)
    # -inf is a valid tail: when the top k hold all probability, nothing remains.
    tail = floats("log_tail", len(sampled) if message.k else 0, -math.inf)
    return TeacherScores(
        teacher=text(message.teacher, at, "teacher"),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        weights_digest=message.weights_digest,
        logprobs=sampled,
        top_ids=top_ids.reshape(shape),
        top_logprobs=floats("top_logprobs", size).reshape(shape),
        log_tail=tail,
        temperature=finite(message.temperature, at, "temperature", low=0),
        span_lengths=_spans(message, at, len(sampled)),
        shared_fraction=finite(message.matched_share, at, "matched_share", low=0, high=1)
        if message.HasField("matched_share")
        else 1.0,
    )


def _top_ids(message: pb.TeacherScores, at: str, vocab_size: int | None) -> npt.NDArray[np.int64]:
    """The ids, with -1 for tokens missing from the policy's vocabulary."""
    ids = unpacked(message.top_ids, at, "top_ids", IDS).astype(np.int64)
    # Only a teacher with another tokenizer, which sends spans, may have such tokens; from others the mark is a bad id.
    unshared = (ids == UNSHARED) if message.span_lengths else np.zeros(len(ids), dtype=np.bool_)
    ids = token_ids(np.where(unshared, 0, ids), at, "top_ids", vocab_size=vocab_size)
    return np.where(unshared, -1, ids)


def _spans(message: pb.TeacherScores, at: str, num_scored: int) -> npt.NDArray[np.int64]:
    spans = np.array(message.span_lengths, dtype=np.int64)
    if len(spans) and (int(spans.min()) < 1 or int(spans.sum()) > num_scored):
        problem = f"cover {int(spans.sum())} of {num_scored} tokens; give lengths of at least 1 that cover no more"
        fault(at, "span_lengths", problem, "wrong_length")
    return spans


def _size_problem(values: Any, num_scored: int, k: int) -> str:
    return f"has {len(values)} entries for {num_scored} tokens and k = {k}; give {num_scored * k}"
