"""The environment ``sums``: "What is 7 + 8?", asked in a chat message; the first task for a small instruct model.

A model of 135 million parameters answers one in ten of them when it samples and learns to answer nine in ten within
minutes on two cores (``configs/smollm2.toml``), so a run on it shows at once whether a real model learns.
"""

import json
from collections.abc import Mapping
from itertools import count

from rlserve.environments.draws import draw
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message, Task

MAX_NUMBER = 10**6
"""Any value of this size will do: larger sums test the tokenizer more than the model."""
# 20% each: 20 of the 100 sums of two one-digit numbers, and still 60 to learn from.
HELD_OUT_PER_CENT = {"test": range(0, 20), "validation": range(20, 40), "train": range(40, 100)}


class SumsEnvironment:
    """Sums of two numbers from 0 to ``max_number``, asked in a chat message.

    Example::

        SumsEnvironment().task("train", 0, seed=1).prompt   # (Message(role="user", content="What is 7 + 8?"),)
    """

    name = "sums"
    version = "1"
    verifier = "math"

    def __init__(self, *, max_number: int = 9) -> None:
        if not 9 <= max_number <= MAX_NUMBER:  # fewer sums than a hundred might leave a split without any
            raise InvalidRequest(f"sums.max_number: is {max_number}; give a number from 9 to {MAX_NUMBER:,}")
        self._numbers = max_number + 1

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation (20% of all sums) and test (20%); each endless, no sum in two of them."""
        return dict.fromkeys(HELD_OUT_PER_CENT, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The sum at ``index``. Raises UnknownName for an unknown split."""
        a, b = self._sum(split, index, seed)
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=(Message(role="user", content=f"What is {a} + {b}?"),),
            verifier=self.verifier,
            payload=json.dumps({"answer": str(a + b)}).encode(),
            seed=seed,
        )

    def _sum(self, split: str, index: int, seed: int) -> tuple[int, int]:
        if split not in HELD_OUT_PER_CENT:
            raise UnknownName(f"split: {split!r} is not one of sums ({', '.join(HELD_OUT_PER_CENT)})")
        # Draw again until the sum's own hash puts it into this split: 1.7 draws for train, 5 for the others.
        keys = (f"sums/{seed}/{split}/{index}/{attempt}" for attempt in count())
        drawn = ((draw(f"{key}/a", self._numbers), draw(f"{key}/b", self._numbers)) for key in keys)
        return next((a, b) for a, b in drawn if split_of(a, b) == split)


def split_of(a: int, b: int) -> str:
    """The split of ``a + b`` and of ``b + a``, by a hash of the numbers and independent of the seed."""
    bucket = draw(f"sums/split/{min(a, b)}+{max(a, b)}", 100)
    return next(split for split, buckets in HELD_OUT_PER_CENT.items() if bucket in buckets)
