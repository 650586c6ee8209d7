"""The environment ``countdown``: reach a target from given numbers with the four operations."""

import json
from collections.abc import Mapping
from fractions import Fraction
from hashlib import blake2b
from random import Random

from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message, Task

SPLITS = ("train", "validation", "test")
MAX_NUMBERS = 8
"""Of one problem. Any value of this size will do: the search space grows with the factorial."""
SPLIT_BUCKETS = 20
"""Buckets of problems, of which validation and test have one each: 5%."""
INSTRUCTION = (
    "Using the numbers {numbers}, each at most once, make an expression that equals {target}. You may use + - * / and"
    " brackets. Think first; then write the expression between <answer> and </answer>."
)


class CountdownEnvironment:
    """``numbers`` numbers from 1 to ``max_number`` and a target that can be reached from them.

    ``use_all``: every number must be used. ``prompt_format``: ``"chat"`` explains the game, ``"text"`` is
    ``3 7 25 = 100?`` for small models. Splits are separated by a hash of the numbers: no problem is in two.
    """

    name = "countdown"
    version = "1"
    verifier = "countdown"

    def __init__(
        self,
        *,
        numbers: int = 4,
        max_number: int = 20,
        max_target: int = 100,
        use_all: bool = False,
        prompt_format: str = "chat",
    ) -> None:
        if not 2 <= numbers <= MAX_NUMBERS or max_number < 2 or max_target < 2:
            raise InvalidRequest(
                f"countdown.numbers, max_number, max_target: are {numbers}, {max_number} and {max_target}; "
                f"give 2 to {MAX_NUMBERS} numbers, and at least 2 for the others"
            )
        if prompt_format not in ("chat", "text"):
            raise InvalidRequest(f'countdown.prompt_format: is {prompt_format!r}; give "chat" or "text"')
        self._numbers, self._max_number, self._max_target = numbers, max_number, max_target
        self._use_all = use_all
        self._prompt_format = prompt_format

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The problem at ``index``. Raises UnknownName for an unknown split."""
        numbers, target, _ = self._problem(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=self._prompt(numbers, target),
            verifier=self.verifier,
            payload=json.dumps(
                {
                    "numbers": numbers,
                    "target": target,
                    "use_all": self._use_all,
                    "tags": self._prompt_format == "chat",
                }
            ).encode(),
            seed=seed,
            labels={"numbers": str(len(numbers))},
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """The prompt as text and a right expression, in tags if the prompt requests them."""
        numbers, target, expression = self._problem(split, index, seed)
        tagged = f"<answer>{expression}</answer>" if self._prompt_format == "chat" else expression
        return _short(numbers, target), tagged

    def _problem(self, split: str, index: int, seed: int) -> tuple[list[int], int, str]:
        """Return numbers, a target, and an expression that reaches it with all the numbers."""
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of countdown ({', '.join(SPLITS)})")
        # Draw an expression first and take its value as the target: a drawn target might be out of reach.
        rng = Random(f"{seed}/{split}/{index}")
        while True:
            numbers = [rng.randint(1, self._max_number) for _ in range(self._numbers)]
            # First, since the hash costs less than an expression.
            if split_of(numbers) != split:
                continue
            value, expression = _combine(rng, numbers)
            # A target of 1 or 0 is reached by trivial quotients and differences.
            if value.denominator == 1 and 1 < value <= self._max_target:
                return numbers, int(value), expression

    def _prompt(self, numbers: list[int], target: int) -> str | tuple[Message, ...]:
        if self._prompt_format == "text":
            return _short(numbers, target)
        listed = ", ".join(map(str, numbers))
        return (Message(role="user", content=INSTRUCTION.format(numbers=listed, target=target)),)


def split_of(numbers: list[int]) -> str:
    """The split of a set of numbers: 90% train, 5% each of the others."""
    # Sorted, and without the target: the same numbers in another order, or with another target, are nearly the same
    # problem.
    key = " ".join(map(str, sorted(numbers)))
    bucket = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % SPLIT_BUCKETS
    return {0: "validation", 1: "test"}.get(bucket, "train")


def _short(numbers: list[int], target: int) -> str:
    return f"{' '.join(map(str, numbers))} = {target}?"


def _combine(rng: Random, numbers: list[int]) -> tuple[Fraction, str]:
    """Return value and text of a random expression over all the numbers."""
    parts = [(Fraction(number), str(number)) for number in numbers]
    while len(parts) > 1:
        (a, left), (b, right) = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        sign = rng.choice("+-*/" if b else "+-*")  # no division by zero
        value = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
        parts.append((value, f"({left}{sign}{right})"))
    value, expression = parts[0]
    # The outermost brackets are superfluous.
    return value, expression[1:-1]
