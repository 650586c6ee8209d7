"""Payloads of the text verifiers, checked before anything is judged."""

from rlserve.verifiers.payloads import decode_object, texts


def decode_answers(payload: bytes) -> tuple[str, ...]:
    """``{"answer": "42"}``, or a list of right answers; stripped. Raises InvalidRequest."""
    return tuple(text.strip() for text in texts(decode_object(payload, fields=("answer",)), "answer"))


def decode_pattern(payload: bytes) -> str:
    """``{"pattern": "^[0-9]+$"}``. Raises InvalidRequest."""
    return texts(decode_object(payload, fields=("pattern",)), "pattern", max_characters=2000)[0]
