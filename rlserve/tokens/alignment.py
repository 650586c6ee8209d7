"""Aligns a teacher's tokens with a student's when their tokenizers differ: by the offsets where tokens end in the text.

Offsets are UTF-8 bytes from the start of the completion. Both sides are tokens of the same bytes; the caller leaves out
tokens without text (end of sequence, roles).
Shape letters: S student tokens, U teacher tokens, G spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from rlserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of both sides between two shared boundaries, from ``start`` up to ``stop``.

    Example, student he|llo| wor|ld against teacher hello| world: ``align([2, 5, 9, 11], [5, 11])`` is
    ``[Span(0, 2, 0, 1), Span(2, 4, 1, 2)]``.
    """

    student_start: int
    student_stop: int
    teacher_start: int
    teacher_stop: int


@dataclass(frozen=True, slots=True, eq=False)
class SpanScores:
    """A teacher's log-probabilities on a student's tokens; ``[S]`` each."""

    span_ids: npt.NDArray[np.int64]
    """Number of the token's span, from 0; -1 behind the last span."""
    logprobs: npt.NDArray[np.float32]
    """The teacher's log-probability of the span on its first token, 0 on the others: a sum over a span is its value."""


def align(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> list[Span]:
    """The shortest spans whose ends both sides share, in order.

    ``*_ends`` are the offsets after each token and never decrease; a token without bytes of its own joins the span that
    closes after it. Tokens behind the last shared end belong to no span: their probabilities are of different texts.
    Raises InvalidRequest for offsets that decrease.
    """
    for name, ends in (("student_ends", student_ends), ("teacher_ends", teacher_ends)):
        if any(later < earlier for earlier, later in pairwise(ends)):
            raise InvalidRequest(f"{name}: offsets decrease; give the byte offset after each token of one completion")
    spans: list[Span] = []
    s = t = start_s = start_t = 0
    while s < len(student_ends) and t < len(teacher_ends):
        # Whichever side is behind advances; at a shared end both do, and a span closes.
        student_end, teacher_end = student_ends[s], teacher_ends[t]
        s += student_end <= teacher_end
        t += teacher_end <= student_end
        if student_end == teacher_end:
            spans.append(Span(start_s, s, start_t, t))
            start_s, start_t = s, t
    return spans


def span_scores(spans: Sequence[Span], teacher_logprobs: Sequence[float], num_student_tokens: int) -> SpanScores:
    """The teacher's log-probabilities ``[U]`` summed over spans and laid on the student's S tokens."""
    ids = np.full(num_student_tokens, -1, dtype=np.int64)
    logprobs = np.zeros(num_student_tokens, dtype=np.float32)
    for number, span in enumerate(spans):
        ids[span.student_start : span.student_stop] = number
        logprobs[span.student_start] = sum(teacher_logprobs[span.teacher_start : span.teacher_stop])
    return SpanScores(ids, logprobs)


def end_offsets(pieces: Sequence[bytes]) -> list[int]:
    """Offset after each token, from its bytes."""
    return list(accumulate(len(piece) for piece in pieces))
