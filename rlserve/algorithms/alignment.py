"""A teacher's tokens onto a student's, when their tokenizers differ: by where tokens end in the text.

Offsets are UTF-8 bytes from the start of the completion. Both sides must spell the same bytes; tokens without
text (end of sequence, roles) are left out before, as are those that the other side cannot have.
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
    """Tokens of both sides between two boundaries that both tokenizers have: ``start`` up to ``stop``."""

    student_start: int
    student_stop: int
    teacher_start: int
    teacher_stop: int


@dataclass(frozen=True, slots=True, eq=False)
class SpanScores:
    """A teacher's log-probabilities on a student's tokens; ``[S]`` each."""

    span_ids: npt.NDArray[np.int64]
    """Number of the token's span, from 0; -1 where the teacher has nothing to say."""
    logprobs: npt.NDArray[np.float32]
    """The span's teacher log-probability on its first token, 0 on the others: sums over spans are right."""


def align(student_ends: Sequence[int], teacher_ends: Sequence[int]) -> list[Span]:
    """The shortest spans whose ends both sides share, in order.

    ``*_ends`` are the offsets after each token and never decrease; a token that adds no whole byte of its own
    joins the span that closes after it. What follows the last shared end belongs to no span: its
    probabilities are of different texts. Raises InvalidRequest for offsets that decrease.
    """
    for name, ends in (("student_ends", student_ends), ("teacher_ends", teacher_ends)):
        if any(later < earlier for earlier, later in pairwise(ends)):
            raise InvalidRequest(f"{name}: offsets decrease; give the byte offset after each token of one completion")
    spans: list[Span] = []
    s = t = start_s = start_t = 0
    while s < len(student_ends) and t < len(teacher_ends):
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
    """Offset after each token, from the bytes that each stands for."""
    return list(accumulate(len(piece) for piece in pieces))
