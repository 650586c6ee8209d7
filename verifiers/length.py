"""Length as a reward: a soft penalty for long completions, or the distance to a target length."""

from typing import Any

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.payloads import decode_object

UNITS = ("characters", "words", "tokens")
UNLIMITED = 2**31 - 1
"""The largest length. Any value of this size will do: it fits 32 bits."""


class LengthVerifier:
    """Soft overlong penalty (DAPO, arXiv:2503.14476, eq. 13): 0 up to ``most - buffer``, falling linearly to -1 at
    ``most``, -1 beyond.

    With ``target`` instead: 1 at that length, falling linearly to 0 at ``tolerance`` away from it. Lengths are in
    ``unit``: characters, words (between blanks) or tokens of the tokenizer at ``tokenizer``. A task may set its own
    values in its payload: ``{"most": ..., "buffer": ...}`` or ``{"target": ..., "tolerance": ...}``. A completion
    passes without a penalty, or within the tolerance.
    """

    name = "length"
    version = "1"
    description = "soft overlong penalty, or distance to a wanted length"
    reward_range = (-1.0, 1.0)

    def __init__(
        self,
        *,
        most: int = 4096,
        buffer: int = 512,
        target: int = 0,
        tolerance: int = 0,
        unit: str = "characters",
        tokenizer: str = "",
    ) -> None:
        if unit not in UNITS:
            raise InvalidRequest(f"options.unit: is {unit!r}; give one of {', '.join(UNITS)}")
        if (unit == "tokens") != bool(tokenizer):
            raise InvalidRequest('options.tokenizer: is needed for unit "tokens", and only for it; give a directory')
        self._numbers = {"most": most, "buffer": buffer, "target": target, "tolerance": tolerance}
        _check(self._numbers, "options")
        self._unit = unit
        self._tokenizer_path = tokenizer
        self._encode: Any = None

    def prepare(self) -> None:
        """Load the tokenizer, if one is configured."""
        if self._tokenizer_path and self._encode is None:
            # ``tokenizers`` alone: transformers takes seconds to import, and a verifier host need not have it.
            from tokenizers import Tokenizer

            self._encode = Tokenizer.from_file(f"{self._tokenizer_path}/tokenizer.json").encode

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse with any options."""
        content = decode_object(payload or b"{}", fields=("most", "buffer", "target", "tolerance"))
        # Defaults with which every valid field of the payload is valid.
        _check({"most": UNLIMITED, "buffer": 0, "target": 0, "tolerance": 0} | dict(content), "payload")

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one length. Raises InvalidRequest for a malformed payload."""
        content = decode_object(payload or b"{}", fields=tuple(self._numbers))
        numbers = self._numbers | dict(content)
        _check(numbers, "payload")
        length = self._length(completion)
        if numbers["target"]:
            reward = near_target(length, numbers["target"], numbers["tolerance"])
            passed = reward > 0
        else:
            reward = overlong_penalty(length, numbers["most"], numbers["buffer"])
            # A penalty is at most 0: no penalty is a pass.
            passed = reward == 0
        return Verdict(
            outcome=Outcome.PASS if passed else Outcome.FAIL,
            reward=reward,
            parts={"length": float(length)},
            reason=f"{length} {self._unit}",
            verifier=self.name,
        )

    def _length(self, text: str) -> int:
        if self._unit == "characters":
            return len(text)
        if self._unit == "words":
            return len(text.split())
        self.prepare()
        assert self._encode is not None
        # Lone surrogates become "?": the tokenizer is written in Rust, whose strings cannot contain them.
        return len(self._encode(text.encode("utf-8", "replace").decode()).ids)


def overlong_penalty(length: int, most: int, buffer: int) -> float:
    """DAPO's soft overlong penalty, in [-1, 0]."""
    if length <= most - buffer:
        return 0.0
    # At and beyond ``most`` first: with a buffer of 0 the slope has no width to divide by.
    return -1.0 if length >= most else (most - buffer - length) / buffer


def near_target(length: int, target: int, tolerance: int) -> float:
    """1 at the target, falling to 0 at the tolerance and beyond."""
    distance = abs(length - target)
    # + 1: a length that is just within the tolerance still has a reward above 0, and so passes.
    return max(0.0, 1.0 - distance / (tolerance + 1))


def _check(numbers: dict[str, int], where: str) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= UNLIMITED:
            raise InvalidRequest(f"{where}.{name}: is {str(value)[:40]!a}; give a whole number that is not negative")
    if not numbers["target"] and not 0 <= numbers["buffer"] <= numbers["most"]:
        raise InvalidRequest(f"{where}.buffer: is {numbers['buffer']}; give at most most, {numbers['most']}")
