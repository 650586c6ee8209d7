"""Payloads of the text verifiers, checked before anything is judged."""

from rlserve.verifiers.payloads import decode_object, texts


def decode_answers(payload: bytes) -> tuple[tuple[str, ...], str | None]:
    """``{"answer": "42", "marker": "#"}`` as right answers, stripped, and the marker, None when absent.

    ``answer`` may be a list. Raises InvalidRequest.
    """
    content = decode_object(payload, fields=("answer", "marker"))
    answers = tuple(text.strip() for text in texts(content, "answer"))
    return answers, texts(content, "marker", max_characters=100)[0] if "marker" in content else None


def decode_pattern(payload: bytes) -> str:
    """``{"pattern": "^[0-9]+$"}``. Raises InvalidRequest."""
    return texts(decode_object(payload, fields=("pattern",)), "pattern", max_characters=2000)[0]
