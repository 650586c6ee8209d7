"""Checks of single fields; each raises InvalidRequest with the field's path, the problem and a reason.

``at`` is the dotted path of the message that holds the field, ``""`` at the top. Reasons form a closed set, so that
they can be counted: see :data:`REASONS`.
"""

import math
from collections.abc import Mapping, Sized
from enum import StrEnum
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from rlserve.errors import InvalidRequest

REASONS = (
    "malformed",  # missing, not finite, outside its range, contradicts another field
    "bad_enum",  # unspecified, or a value of a newer version
    "wrong_length",  # arrays or run lengths that do not fit each other
    "nan_logprob",
    "logprob_range",  # infinite, positive, or lower than a sampler can produce
    "bad_token",  # outside the vocabulary
    "bad_version",  # decreasing, or not a policy version
    "too_long",  # more tokens than the limit
    "too_many",  # more trajectories than the limit
    "duplicate_sample",  # the same sample_index twice
    "nan_reward",
    "absurd_reward",  # finite, and beyond what any verifier may declare
)

MAX_INT64 = 2**63 - 1  # what a signed 64-bit array holds; a proto uint64 reaches further
MAX_PARTS = 256  # as in bounds.BOUNDS
MAX_NAME = 256
"""Characters of an id or a name. Any value of this size will do: names become file names, metric names and log
lines."""
# Rounding can lift the log-probability of a nearly certain token a little above 0. A sampler's lowest is about -100
# (the smallest float32 has a logarithm of -103), and a teacher's may be lower, since it did not choose the token.
MAX_LOGPROB, MIN_LOGPROB = 1e-4, -1000.0
SHORT = 64
"""Up to this many numbers are checked as a list: numpy's fixed cost a call is larger than what it saves on so few."""

E = TypeVar("E", bound=StrEnum)


def fault(at: str, field: str, problem: str, reason: str = "malformed") -> NoReturn:
    """Raise InvalidRequest for ``field`` of the message at ``at``; ``problem`` gives its value and the fix."""
    path = join(at, field)
    raise InvalidRequest(f"{path}: {problem}", field=path, reason=reason)


def join(at: str, field: str) -> str:
    """The dotted path of a field."""
    return f"{at}.{field}" if at else field


class EnumCodec(Generic[E]):
    """Translates between members of a StrEnum and their numbers on the wire, matched by name."""

    def __init__(self, wire: Any, prefix: str, members: type[E], *, unspecified: E | None = None) -> None:
        """``wire`` is the generated enum; ``unspecified`` is the member for its 0, None when 0 is invalid."""
        # wire.Value raises for a member without a number: a record and its proto that differ fail on import.
        numbers = {member: wire.Value(f"{prefix}_{member.name}") for member in members if member != unspecified}
        if unspecified is not None:
            numbers[unspecified] = 0
        self._numbers: dict[E, int] = numbers
        self._members = {number: member for member, number in numbers.items()}
        self._known = ", ".join(f"{prefix}_{member.name}" for member in members if member != unspecified)

    def encode(self, member: E) -> Any:
        """The number of a member."""
        return self._numbers[member]

    def find(self, number: int) -> E | None:
        """The member with this number; None when there is none."""
        return self._members.get(number)

    def decode(self, number: int, at: str, field: str) -> E:
        """The member with this number. Raises InvalidRequest when there is none."""
        member = self._members.get(number)
        if member is None:
            fault(at, field, f"is {number}, which is none of {self._known}", "bad_enum")
        return member


def text(value: str, at: str, field: str, *, max_length: int = MAX_NAME) -> str:
    """Check a name: not empty, not too long."""
    if not value:
        fault(at, field, "is empty; give it a value")
    if len(value) > max_length:
        fault(at, field, f"has {len(value)} characters; at most {max_length}")
    return value


def optional_text(value: str, at: str, field: str, *, max_length: int = MAX_NAME) -> str:
    """Check a name or text that may be empty, but not too long."""
    return text(value, at, field, max_length=max_length) if value else value


def finite(value: float, at: str, field: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Check a number: finite and within bounds."""
    if not math.isfinite(value) or not low <= value <= high:
        fault(at, field, f"is {value}; give a finite number" + _bounds(low, high))
    return value


def integer(value: int, at: str, field: str, *, low: int = 0, high: int = MAX_INT64) -> int:
    """Check an integer: within bounds, by default those of a signed 64-bit array."""
    if not low <= value <= high:
        fault(at, field, f"is {value}; give an integer from {low} to {high}")
    return value


def count(values: Sized, at: str, field: str, *, low: int = 0, high: int) -> None:
    """Check the number of entries of a repeated field or a map."""
    if not low <= len(values) <= high:
        fault(at, field, f"has {len(values)} entries; give from {low} to {high}", "wrong_length")


def finite_values(values: Mapping[str, float], at: str, field: str) -> dict[str, float]:
    """Check a map of finite numbers."""
    count(values, at, field, high=MAX_PARTS)
    return {key: finite(value, at, f"{field}[{key!r}]") for key, value in values.items()}


def logprobs(
    values: Any, at: str, field: str, *, length: int | None, low: float = MIN_LOGPROB
) -> npt.NDArray[np.float32]:
    """Check log-probabilities, each in [low, 1e-4], where ``low`` may be -inf; return them as ``[length] float32``."""
    if length is not None and len(values) != length:
        fault(at, field, f"has {len(values)} entries for {length} tokens; give one each", "wrong_length")
    if 0 < len(values) <= SHORT:
        numbers = values[:]  # a list: each access to the repeated field itself crosses into C
        # A sum with NaN in it is NaN; min and max may overlook one.
        if math.isfinite(sum(numbers)) and low <= min(numbers) and max(numbers) <= MAX_LOGPROB:
            return np.array(numbers, dtype=np.float32)
    array = np.array(values, dtype=np.float32)
    good = (array >= low) & (array <= MAX_LOGPROB)  # NaN is neither
    if not good.all():
        where = int(good.argmin())
        value = float(array[where])
        reason = "nan_logprob" if math.isnan(value) else "logprob_range"
        fault(at, f"{field}[{where}]", f"is {value}; give a value in [{low:g}, {MAX_LOGPROB:g}]", reason)
    return array


def token_ids(values: Any, at: str, field: str, *, vocab_size: int | None) -> npt.NDArray[np.int64]:
    """Check token ids, each below ``vocab_size`` (None: not checked); return them as int64."""
    if len(values) <= SHORT:
        ids = values[:]
        if vocab_size is None or not len(ids) or max(ids) < vocab_size:
            return np.array(ids, dtype=np.int64)
    array = np.array(values, dtype=np.int64)
    if vocab_size is not None and len(array) and int(array.max()) >= vocab_size:
        where = int((array >= vocab_size).argmax())
        problem = f"is {array[where]}, but the vocabulary has {vocab_size} tokens; use the run's tokenizer"
        fault(at, f"{field}[{where}]", problem, "bad_token")
    return array


def unpacked(content: bytes, at: str, field: str, dtype: str) -> npt.NDArray[Any]:
    """The array that a field's bytes hold, in their type; not a copy. Raises InvalidRequest for a part of a number."""
    size = np.dtype(dtype).itemsize
    if len(content) % size:
        fault(
            at, field, f"has {len(content)} bytes, which is no multiple of {size}; give whole numbers", "wrong_length"
        )
    return np.frombuffer(content, dtype=dtype)


def wire_text(value: str) -> str:
    """The text with lone surrogates, which a proto string refuses, replaced by ``?``."""
    # Trying is cheaper than replacing: nearly every text is fine, and then no copy is made.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _bounds(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" in [{low:g}, {high:g}]"
