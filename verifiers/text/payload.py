"""The payloads of the text verifiers, checked before a completion is judged."""

from dataclasses import dataclass

from rlserve.errors import InvalidRequest
from rlserve.verifiers.payloads import decode_object, texts

MAX_MARKER_CHARACTERS = 100
"""Any value of this size will do: markers are ``#`` or ``The answer is``."""
MAX_PATTERN_CHARACTERS = 2000
"""Any value of this size will do: it bounds the time in which ``re`` compiles a pattern."""


@dataclass(frozen=True, slots=True)
class ExactPayload:
    """The gold answers of a task, and how to find the answer in a completion."""

    golds: tuple[str, ...]
    """Gold answers, stripped."""
    marker: str | None = None
    """The text before the answer. None: the verifier's option; empty: the answer is the whole text."""


def decode_exact(payload: bytes) -> ExactPayload:
    """Decode ``{"answer": "42"}``, or a list of gold answers; ``"marker": "#"`` is optional. Raises InvalidRequest."""
    content = decode_object(payload, fields=("answer", "marker"))
    marker = content.get("marker")
    if marker is not None and (not isinstance(marker, str) or len(marker) > MAX_MARKER_CHARACTERS):
        raise InvalidRequest(f"payload.marker: is {str(marker)[:40]!a}; send a text of up to {MAX_MARKER_CHARACTERS}")
    return ExactPayload(tuple(text.strip() for text in texts(content, "answer")), marker)


def decode_pattern(payload: bytes) -> str:
    """Decode ``{"pattern": "^[0-9]+$"}``. Raises InvalidRequest."""
    return texts(decode_object(payload, fields=("pattern",)), "pattern", max_characters=MAX_PATTERN_CHARACTERS)[0]
