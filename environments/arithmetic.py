"""Digit sums modulo ten: an endless, generated task on which a tiny model learns to reason.

``3+8+5=`` may be answered directly (``#6``) or with the work shown (``3+8=1;1+5=6;#6``). Demonstrations do either, by a
fair coin. A small model cannot add several digits in one step, so showing the work pays, which reinforcement learning
discovers.

Everything is a pure function of a BLAKE2 digest, so it is the same on every host and Python version.
"""

import json
from bisect import bisect
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import accumulate, count, islice

from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Task

MARKER = "#"
"""Precedes the answer."""
MAX_DIGITS = 24
"""Far fewer than the unbiased digits in one digest of 64 bytes."""
LEVEL = "digits-"
EQUATIONS_PER_TEXT = 10
"""Any value will do: texts are packed end to end for pretraining."""
COMMONNESS = tuple(accumulate(1 / (digit + 1) for digit in range(10)))
"""Cumulative Zipf weights of the digits in unlabelled text."""
# 5% each: some 500 of the 10,000 problems of four digits, enough to measure an accuracy to about two points.
HELD_OUT_PER_MILLE = {"test": range(0, 50), "validation": range(50, 100), "train": range(100, 1000)}


class ArithmeticEnvironment:
    """Sums of ``min_digits`` to ``max_digits`` digits, modulo ten.

    Example::

        environment = ArithmeticEnvironment(min_digits=3, max_digits=3)
        environment.task("train", 0, seed=1).prompt           # e.g. "3+8+5="
        environment.demonstration("train", 0, seed=1)         # e.g. ("3+8+5=", "3+8=1;1+5=6;#6")
    """

    name = "arithmetic"
    version = "1"
    verifier = "exact"

    def __init__(self, *, min_digits: int = 3, max_digits: int = 5, worked_share: float = 0.5) -> None:
        """``worked_share``: share of demonstrations that show the work; 1 makes a teacher."""
        if not 2 <= min_digits <= max_digits <= MAX_DIGITS:
            raise InvalidRequest(
                f"arithmetic.min_digits, max_digits: are {min_digits} and {max_digits}; "
                f"give 2 <= min_digits <= max_digits <= {MAX_DIGITS}"
            )
        if not 0 <= worked_share <= 1:
            raise InvalidRequest(f"arithmetic.worked_share: is {worked_share}; give a number from 0 to 1")
        self._worked_share = worked_share
        self._min_digits = min_digits
        self._max_digits = max_digits

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation (5% of all problems) and test (5%); each endless, no problem in two of them.

        ``digits-3`` and so on are the problems of ``train`` with that many digits: levels of a curriculum.
        """
        levels = [f"{LEVEL}{digits}" for digits in range(self._min_digits, self._max_digits + 1)]
        return dict.fromkeys([*HELD_OUT_PER_MILLE, *levels], 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The problem at ``index``. Raises UnknownName for an unknown split."""
        problem = self._problem(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=problem,
            verifier=self.verifier,
            payload=json.dumps({"answer": answer(problem), "marker": MARKER}).encode(),
            seed=seed,
            labels={"digits": str(len(operands(problem)))},
        )

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """The prompt of ``task(split, index, seed)`` and a right completion; every other one shows the work."""
        problem = self._problem(split, index, seed)
        return problem, (worked(problem) if self._shows_work(split, index, seed) else "") + MARKER + answer(problem)

    def _shows_work(self, split: str, index: int, seed: int) -> bool:
        if self._worked_share == 0.5:  # exactly one of two neighbours, so that no batch has many of one kind
            return (_digest(f"coin/{seed}/{split}/{index // 2}")[0] + index) % 2 == 1
        return int.from_bytes(_digest(f"coin/{seed}/{split}/{index}")[:4]) < self._worked_share * 2**32

    def text(self, split: str, index: int, seed: int) -> str:
        """Return unlabelled text for pretraining: true equations, ``3+0=3;1+6=7;...``, none of them a problem.

        Small digits are more frequent than large ones, as in natural data. With a uniform distribution neither operand
        alone predicts anything of the answer, and a small model needs many times as long to learn that both do.
        """
        digest = _digest(f"text/{seed}/{split}/{index}")
        digits = [_common_digit(digest[2 * i : 2 * i + 2]) for i in range(2 * EQUATIONS_PER_TEXT)]
        return "".join(_equation(a, b) for a, b in zip(digits[::2], digits[1::2], strict=True))

    def _problem(self, split: str, index: int, seed: int) -> str:
        if split not in self.splits:
            raise UnknownName(f"split: {split!r} is not one of arithmetic ({', '.join(self.splits)})")
        level = int(split.removeprefix(LEVEL)) if split.startswith(LEVEL) else 0
        # Draw again until the problem's own hash puts it into this split: 1.1 draws for train, 20 for the others.
        drawn = (self._draw(f"{seed}/{split}/{index}/{attempt}", level) for attempt in count())
        wanted = "train" if level else split
        return next(problem for problem in drawn if split_of(problem) == wanted)

    def _draw(self, key: str, level: int) -> str:
        # The first byte chooses the number of digits, the others are the digits: neither depends on the other.
        first, *rest = _digest(key)
        num_digits = level or self._min_digits + first % (self._max_digits - self._min_digits + 1)
        return "+".join(str(digit) for digit in islice(_digits(bytes(rest)), num_digits)) + "="


def split_of(problem: str) -> str:
    """The split of a problem, by a hash of its text and independent of the seed."""
    # Not Python's hash(), which is salted per process.
    bucket = int.from_bytes(_digest(f"split/{problem}")[:8]) % 1000
    return next(split for split, buckets in HELD_OUT_PER_MILLE.items() if bucket in buckets)


def operands(problem: str) -> list[int]:
    """Return ``[3, 8, 5]`` for ``"3+8+5="``."""
    return [int(digit) for digit in problem.removesuffix("=").split("+")]


def answer(problem: str) -> str:
    """Return the last digit of the sum."""
    return str(sum(operands(problem)) % 10)


def worked(problem: str) -> str:
    """The sum one digit at a time: ``"3+8+5="`` as ``"3+8=1;1+5=6;"``."""
    running, *rest = operands(problem)
    steps = ""
    for digit in rest:
        steps += _equation(running, digit)
        running = (running + digit) % 10
    return steps


def _equation(a: int, b: int) -> str:
    return f"{a}+{b}={(a + b) % 10};"


def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=64).digest()


def _digits(data: bytes) -> Iterator[int]:
    # 250 is the largest multiple of 10 that fits a byte: the bytes above it would favour the digits 0 to 5.
    return (byte % 10 for byte in data if byte < 250)


def _common_digit(data: bytes) -> int:
    # Inverse transform: a uniform number in [0, total), looked up in the cumulative weights.
    return bisect(COMMONNESS, int.from_bytes(data) / 2 ** (8 * len(data)) * COMMONNESS[-1])
