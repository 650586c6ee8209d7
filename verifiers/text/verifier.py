"""The verifiers ``exact`` and ``regex``: text comparison, in microseconds."""

import re
from functools import lru_cache

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.reasoning import MARK, answer_of
from rlserve.verifiers.text.answers import after_marker
from rlserve.verifiers.text.payload import ExactPayload, decode_exact, decode_pattern

SHOWN_CHARACTERS = 100
"""Of an answer in a verdict's reason. Any value of this size will do: a line for a person, kept with each rollout."""
MAX_REGEX_CHARACTERS = 20_000
"""Of a longer text only the end is matched. Any value of this size will do: it bounds the time of patterns whose time
grows with the square of the length."""


class ExactVerifier:
    """Reward 1 when the answer equals a gold answer in every character. Payload: ``{"answer": "42", "marker": "#"}``.

    The answer is the stripped text after the last marker; the whole text when the marker is empty. Thoughts
    (``<think>...</think>``) are dropped first. A marker in the payload takes precedence over the option.
    ``ignore_case`` compares lower case.
    """

    name = "exact"
    version = "1"
    description = "the answer is exactly the gold answer"
    reward_range = (0.0, 1.0)

    def __init__(self, *, marker: str = "", ignore_case: bool = False) -> None:
        self._marker = marker
        self._ignore_case = ignore_case

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        decode_exact(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion; raises InvalidRequest for a malformed payload."""
        task = _exact_payload(payload)
        marker = self._marker if task.marker is None else task.marker
        answer = after_marker(answer_of(completion, prompt), marker)
        if answer is None:
            return _verdict("exact", False, f"expected {_shown(task.golds[0])}, found no {marker!a}")
        correct = self._spelled(answer) in map(self._spelled, task.golds)
        reason = f"expected {_shown(task.golds[0])}, found {_shown(answer)} (rule: same text)"
        return _verdict("exact", correct, reason)

    def _spelled(self, text: str) -> str:
        return text.lower() if self._ignore_case else text


class RegexVerifier:
    """Reward 1 when the task's regular expression matches. Payload: ``{"pattern": "..."}``.

    With ``full`` the whole stripped text must match, else any part of it. The text is the answer without thoughts
    (``<think>...</think>``), unless the pattern names such a tag. A pattern with nested repetition may need exponential
    time on some texts: the limit of the judge process ends it, as a failure of the verifier and not of the text.
    """

    name = "regex"
    version = "1"
    description = "the text matches the pattern of the task"
    reward_range = (0.0, 1.0)

    def __init__(self, *, marker: str = "", full: bool = False) -> None:
        self._marker = marker
        self._full = full

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        _pattern(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion; raises InvalidRequest for a malformed payload or pattern."""
        pattern = _pattern(payload)
        # Without its escapes, since a pattern may spell the tag as "<\/think>".
        about_thoughts = MARK.search(pattern.pattern.replace("\\", "")) is not None
        answer = after_marker(completion if about_thoughts else answer_of(completion, prompt), self._marker)
        if answer is None:
            return _verdict("regex", False, f"found no {self._marker!a}")
        # The end: that is where answers stand.
        answer = answer[-MAX_REGEX_CHARACTERS:]
        found = pattern.fullmatch(answer) if self._full else pattern.search(answer)
        shown = _shown(found.group()) if found else "no match"
        return _verdict("regex", found is not None, f"pattern {_shown(pattern.pattern)}: {shown}")


@lru_cache(maxsize=256)
def _exact_payload(payload: bytes) -> ExactPayload:
    return decode_exact(payload)  # cached, since all completions of a group have the same payload


@lru_cache(maxsize=256)
def _pattern(payload: bytes) -> re.Pattern[str]:
    text = decode_pattern(payload)
    try:
        return re.compile(text)
    # re raises RecursionError for deep groups and OverflowError for huge repeat counts.
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequest(f"payload.pattern: is no regular expression ({error}); correct the task") from error


def _shown(text: str) -> str:
    return ascii(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


def _verdict(verifier: str, correct: bool, reason: str) -> Verdict:
    return Verdict(
        outcome=Outcome.PASS if correct else Outcome.FAIL,
        reward=float(correct),
        parts={"correct": float(correct)},
        reason=reason,
        verifier=verifier,
        passed=int(correct),
        total=1,
    )
