"""The payload of a math task: JSON with the gold answer, checked before a completion is judged."""

from dataclasses import dataclass
from functools import lru_cache

from rlserve.verifiers.payloads import decode_object, flag, texts

MAX_GOLD_CHARACTERS = 20_000
"""Room for a whole worked solution; bounds the text that a payload makes the verifier parse."""


@dataclass(frozen=True, slots=True)
class MathPayload:
    """The gold answers of a task, and how to read the completion."""

    golds: tuple[str, ...]
    """Gold answers, or solutions that contain one; the completion must equal one of them."""
    bare: bool = False
    """True when the completion is the answer itself and not a text around it."""


@lru_cache(maxsize=16)  # the trajectories of a group share it, and come one after the other
def decode_payload(payload: bytes) -> MathPayload:
    """Read ``{"answer": "42"}`` or ``{"answer": ["1/2", "0.5"], "bare": true}``; raises InvalidRequest."""
    content = decode_object(payload, fields=("answer", "bare"))
    return MathPayload(texts(content, "answer", max_characters=MAX_GOLD_CHARACTERS), flag(content, "bare"))
