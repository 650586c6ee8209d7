"""The verifier ``countdown``: an expression equals the target and uses the given numbers only."""

from collections import Counter

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.countdown.expression import NoExpression, evaluate
from rlserve.verifiers.payloads import decode_object, flag
from rlserve.verifiers.reasoning import answer_of, tagged_answer


class CountdownVerifier:
    """1 for an expression that equals the target and uses each number at most once (with ``use_all`` all of them).

    An answer may end in ``= target``. With ``tags`` the expression is the content of the last ``<answer>`` tags, else
    the last line of the text. Reasoning (``<think>...</think>``) is ignored.
    """

    name = "countdown"
    version = "1"
    description = "an expression over given numbers reaches a target; exact arithmetic, nothing is evaluated as code"

    @staticmethod
    def check(payload: bytes) -> None:
        """Raise InvalidRequest for a payload that ``verify`` would refuse."""
        _task(payload)

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Verify one answer. Raises InvalidRequest for a malformed payload."""
        numbers, target, use_all, tags = _task(payload)
        why = _why_wrong(_expression(completion, prompt, tags), numbers, target, use_all)
        return Verdict(
            outcome=Outcome.FAIL if why else Outcome.PASS,
            reward=float(not why),
            parts={"right": float(not why)},
            reason=why or "right",
            verifier=self.name,
        )


def _task(payload: bytes) -> tuple[list[int], int, bool, bool]:
    """Numbers, target, whether all must be used, whether the answer is in tags. Raises InvalidRequest."""
    content = decode_object(payload, fields=("numbers", "target", "use_all", "tags"))
    numbers, target = content.get("numbers"), content.get("target")
    # type() and not isinstance(): true is no number.
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
        raise InvalidRequest("payload.numbers: is not a list of whole numbers")
    if type(target) is not int:
        raise InvalidRequest(f"payload.target: is {str(target)[:40]!a}; send a whole number")
    return numbers, target, flag(content, "use_all"), flag(content, "tags")


def _expression(completion: str, prompt: str, tags: bool) -> str:
    if tags:
        return tagged_answer(completion, prompt) or ""
    lines = answer_of(completion, prompt).strip().splitlines()
    return lines[-1] if lines else ""


def _why_wrong(text: str, numbers: list[int], target: int, use_all: bool) -> str:
    # Checked, since a model that states another value than its expression has is wrong even if one of the two fits.
    left, equals, right = text.partition("=")
    if equals and right.strip() != str(target):
        return f"states the value {right.strip()[:20]!a}"
    try:
        value, used = evaluate(left)
    except NoExpression as error:
        return f"no expression: {error}"
    given, taken = Counter(numbers), Counter(used)  # counts, since a number may be given twice
    if taken - given:
        return f"uses {min((taken - given).elements())} too often"
    if use_all and given - taken:
        return f"does not use {min((given - taken).elements())}"
    return "" if value == target else f"equals {value}"
