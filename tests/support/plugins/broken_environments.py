"""Environments that break one promise each."""

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from rlserve.errors import UnknownName
from rlserve.records import Task

COUNTER = itertools.count()
BROKEN_PROMISES = {
    "forgetful": "tasks_repeat",
    "seedless": "seeds_differ",
    "slow": "tasks_come_in_time",
    "leaking": "held_out_is_held_out",
    "wrong_gold": "gold_scores_full_marks",
    "misnamed": "tasks_say_where_they_are_from",
    "telling": "payload_is_not_in_the_prompt",
    "unjudged": "verifier_is_known",
    "unwrapped": "every_split_answers",
}


class SumEnvironment:
    """Sums; ``fault`` names the promise that is broken, none is when it is empty."""

    name = "sums"
    version = "1"

    def __init__(self, *, fault: str = "") -> None:
        self._fault = fault
        self.verifier = "no-such-verifier" if fault == "unjudged" else "exact"

    @property
    def splits(self) -> Mapping[str, int]:
        return {"train": 0, "test": 0, "dev": 10 if self._fault == "unwrapped" else 0}

    def task(self, split: str, index: int, seed: int) -> Task:
        if split not in self.splits:
            raise UnknownName(f"split: {split!r} is not one of sums")
        if self._fault == "slow" and index == 3 and seed == 3:
            time.sleep(0.3)
        key = f"{seed}/{split}/{index}"
        if self._fault == "forgetful":
            key += f"/{next(COUNTER)}"
        if self._fault == "seedless":
            key = f"{split}/{index}"
        rng = Random(key)
        low, high = (0, 499) if split == "test" and self._fault != "leaking" else (500, 999)
        if self._fault == "leaking":
            low, high = 1, 5
        a, b = rng.randint(low, high), rng.randint(0, 9 if self._fault == "leaking" else 999)
        answer = str(a + b + (self._fault == "wrong_gold"))
        payload = json.dumps({"answer": str(a + b)}).encode()
        shown = f" (hint: {payload.decode()})" if self._fault == "telling" else ""
        self.last = answer
        task = Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=f"{a}+{b}={shown}",
            verifier=self.verifier,
            payload=payload,
            seed=seed,
        )
        return replace(task, index=index + 1) if self._fault == "misnamed" else task

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        task = self.task(split, index, seed)
        return str(task.prompt), self.last
