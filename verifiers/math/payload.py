"""The payload of a math task: JSON with the gold answer, checked before anything is judged."""

from dataclasses import dataclass

from rlserve.verifiers.payloads import decode_object, flag, texts

MAX_GOLD_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class MathPayload:
    """What a completion is judged against."""

    golds: tuple[str, ...]
    """Gold answers, or solutions that hold one; any one of them is right."""
    bare: bool = False
    """The completion is an answer, not a text that holds one."""


def decode_payload(payload: bytes) -> MathPayload:
    """Read ``{"answer": "42"}`` or ``{"answer": ["1/2", "0.5"], "bare": true}``; raises InvalidRequest."""
    content = decode_object(payload, fields=("answer", "bare"))
    return MathPayload(texts(content, "answer", max_characters=MAX_GOLD_CHARACTERS), flag(content, "bare"))
