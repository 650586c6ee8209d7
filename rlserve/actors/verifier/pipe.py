"""Messages over the pipes between the service and a judge process: length-prefixed JSON, never pickle.

The service does not trust its judge processes, because they run plug-ins: a reply that does not decode to a checked
record raises Garbage, and the process that sent it is killed.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlserve.records import Failure, FailureKind, Outcome, Verdict

LENGTH = struct.Struct(">I")
MAX_REPLY_BYTES = 2**20
"""A reply with every text below at its limit, at 12 bytes for an escaped character, is half as long."""
MAX_JOB_BYTES = 2**26
"""Read by async verifiers: one completion, payload and prompt of verifier.max_completion_bytes (1 MiB) each, with
room for escapes."""
MAX_REASON_CHARACTERS = 2000
"""A reason is one line for people; metrics and samples keep it for every trajectory."""
MAX_OUTPUT_CHARACTERS = 20_000
"""What a program printed: enough to see why a test failed."""
MAX_TRACEBACK_CHARACTERS = 8000
"""The last frames of a traceback, about 100 lines; recursion errors are much longer."""
MAX_PARTS = 64
"""Named parts of a reward: a rubric has a handful, and each one becomes a metric."""


class Garbage(Exception):
    """A malformed message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A judge process's verdict on one completion."""

    index: int
    verdict: Verdict
    traceback: str = ""
    """Traceback of an unexpected exception in the verifier; for the log."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame. ASCII only, so that lone surrogates survive as escapes."""
    body = json.dumps(message, ensure_ascii=True, allow_nan=False).encode("ascii")
    return LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Collects bytes as they arrive and yields each frame once it is complete."""

    def __init__(self, *, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The frames that ``data`` completes. Raises Garbage for one that is too long or no JSON object."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            # Before its body is collected: a faulty process must not fill the memory of the service.
            if length > self._max_bytes:
                raise Garbage(f"a frame of {length} bytes; at most {self._max_bytes}")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            yield _object(body)


def _object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    # RecursionError: brackets nested deeper than the decoder goes.
    except (ValueError, RecursionError) as error:
        raise Garbage("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise Garbage("a frame that is not an object")
    return message


def encode_verdict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data with its texts cut. Raises TypeError or ValueError for anything else."""
    if not isinstance(verdict, Verdict):
        raise TypeError(f"verify returned {type(verdict).__name__}; return a Verdict(outcome=..., reward=...)")
    if not math.isfinite(verdict.reward) or not all(map(math.isfinite, verdict.parts.values())):
        raise ValueError(f"reward {verdict.reward} or a part is not finite")
    if (verdict.outcome is Outcome.NO_VERDICT) != (verdict.failure is not None):
        raise ValueError("a failure belongs to NO_VERDICT and to nothing else")
    failure = verdict.failure
    return {
        "outcome": verdict.outcome.value,
        "reward": float(verdict.reward),
        "parts": {str(name)[:64]: float(value) for name, value in list(verdict.parts.items())[:MAX_PARTS]},
        "reason": verdict.reason[:MAX_REASON_CHARACTERS],
        "passed": int(verdict.passed),
        "total": int(verdict.total),
        "isolation": verdict.isolation[:64],
        "output": verdict.output[:MAX_OUTPUT_CHARACTERS],
        "failure": None if failure is None else [failure.kind.value, failure.message[:500], failure.retriable],
    }


def decode_reply(message: Mapping[str, Any], *, verifier: str) -> Reply:
    """A checked verdict; raises Garbage."""
    try:
        return Reply(
            index=_integer(message["index"]),
            verdict=_verdict(message["verdict"], _number(message["seconds"]), verifier),
            traceback=_text(message.get("traceback", ""))[:MAX_TRACEBACK_CHARACTERS],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbage(f"a malformed verdict: {type(error).__name__}") from error


def _verdict(message: Mapping[str, Any], seconds: float, verifier: str) -> Verdict:
    outcome = Outcome(message["outcome"])
    failure = message["failure"]
    if (outcome is Outcome.NO_VERDICT) != (failure is not None):
        raise ValueError("failure")
    if failure is not None:
        kind, text, retriable = failure
        source = f"verifier:{verifier}"
        record = Failure(source=source, kind=FailureKind(kind), message=_text(text), retriable=retriable is True)
        return Verdict.none(record, seconds=seconds)
    passed, total = _integer(message["passed"]), _integer(message["total"])
    if passed > total or len(message["parts"]) > MAX_PARTS:
        raise ValueError("passed")
    return Verdict(
        outcome=outcome,
        reward=_number(message["reward"], low=-math.inf),
        parts={_text(name): _number(value, low=-math.inf) for name, value in message["parts"].items()},
        reason=_text(message["reason"]),
        verifier=verifier,
        seconds=seconds,
        passed=passed,
        total=total,
        isolation=_text(message["isolation"]),
        output=_text(message["output"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _integer(value: Any) -> int:
    # bool is a subclass of int.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError("integer")
    return value


def _number(value: Any, *, low: float = 0.0) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < low:
        raise ValueError("number")
    return float(value)
