"""Payloads of the text verifiers, checked before anything is judged."""

from dataclasses import dataclass

from rlserve.errors import InvalidRequest
from rlserve.verifiers.payloads import decode_object, texts

MAX_MARKER_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class ExactPayload:
    """What a text is compared with."""

    golds: tuple[str, ...]
    """Right answers, stripped."""
    marker: str | None = None
    """Stands before the answer; None leaves it to the verifier's option, empty takes the whole text."""


def decode_exact(payload: bytes) -> ExactPayload:
    """``{"answer": "42"}``, or a list of right answers; ``"marker": "#"`` if wanted. Raises InvalidRequest."""
    content = decode_object(payload, fields=("answer", "marker"))
    marker = content.get("marker")
    if marker is not None and (not isinstance(marker, str) or len(marker) > MAX_MARKER_CHARACTERS):
        raise InvalidRequest(f"payload.marker: is {str(marker)[:40]!a}; send a text of up to {MAX_MARKER_CHARACTERS}")
    return ExactPayload(tuple(text.strip() for text in texts(content, "answer")), marker)


def decode_pattern(payload: bytes) -> str:
    """``{"pattern": "^[0-9]+$"}``. Raises InvalidRequest."""
    return texts(decode_object(payload, fields=("pattern",)), "pattern", max_characters=2000)[0]
