"""Environments that break one promise each."""

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from rlserve.errors import UnknownName
from rlserve.records import Message, Outcome, Task, Tool, ToolCall, Turn, Verdict

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
BROKEN_EPISODES = {
    "endless": "episodes_answer_and_end",
    "silent": "episodes_answer_and_end",
    "worthless": "episodes_are_judged",
    "mixing": "episodes_repeat",
    "fragile": "junk_is_answered",
    "generous": "junk_is_answered",
    "deaf": "tool_calls_are_answered",
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


class AskEnvironment:
    """Asks for a number in three turns, with a tool; ``fault`` names the promise that is broken."""

    name, version, verifier, multi_turn = "asks", "1", "", True

    def __init__(self, *, fault: str = "") -> None:
        self.fault = fault
        self.asked = 0

    @property
    def splits(self) -> Mapping[str, int]:
        return {"train": 0}

    def task(self, split: str, index: int, seed: int) -> Task:
        if split != "train":
            raise UnknownName(f"split: {split!r} is not one of asks")
        return Task(
            environment=self.name,
            split=split,
            index=index,
            task_id=f"{seed}/{index}",
            prompt=(Message(role="user", content=f"{Random(f'{seed}/{index}').random()}?"),),
            verifier="",
            payload=b"",
            seed=seed,
            multi_turn=True,
            tools=(Tool(name="look"),),
        )

    def open(self, task: Task) -> "AskEpisode":
        return AskEpisode(self)


class AskEpisode:
    def __init__(self, environment: AskEnvironment) -> None:
        self._environment, self._fault, self._taken = environment, environment.fault, 0

    def step(self, text: str) -> Turn:
        return self._answer(text, "go on")

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        turn = self._answer(text, "")
        ids = ["" if self._fault == "deaf" else call.id for call in calls]
        return replace(turn, messages=tuple(Message(role="tool", tool_call_id=id, content="no") for id in ids))

    def _answer(self, text: str, said: str) -> Turn:
        self._taken += 1
        self._environment.asked += 1
        if self._fault == "fragile":
            int(text if text.isdigit() else "0")  # refuses more than 4300 digits
        said = {"silent": " ", "mixing": f"{said} {self._environment.asked}"}.get(self._fault, said)
        passed = text == "7" or (self._fault == "generous" and not text)
        verdict = Verdict(outcome=Outcome.PASS if passed else Outcome.FAIL, reward=float(passed))
        return Turn(
            messages=(Message(role="user", content=said),),
            done=self._taken >= 3 and self._fault != "endless",
            verdict=None if self._fault == "worthless" and self._taken == 2 else verdict,
        )
