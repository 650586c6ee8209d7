"""A taskset as an environment: its tasks, in its order; ``verifier`` runs its rewards."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message, Task
from rlserve_prime.episode import PrimeEpisode, tools_of
from rlserve_prime.tasksets import tasks_of


class PrimeEnvironment:
    """Tasks of a ``verifiers`` taskset: of one turn or, if the tasks have tools, of up to ``turns`` turns.

    ``taskset`` is its id, ``options`` its configuration. The last ``held_out`` share of the tasks is the split
    ``test``, or ``test_taskset`` with ``test_options`` names a separate taskset for it.
    """

    name = "prime"
    verifier = "prime"

    def __init__(
        self,
        *,
        taskset: str,
        options: Mapping[str, Any] | None = None,
        held_out: float = 0.1,
        test_taskset: str = "",
        test_options: Mapping[str, Any] | None = None,
        turns: int = 16,
        pass_at: float | None = None,
    ) -> None:
        if turns < 1:
            raise InvalidRequest(f"prime.turns: is {turns}; give at least 1")
        if not 0 <= held_out < 1:
            raise InvalidRequest(f"prime.held_out: is {held_out}; give a share from 0 to below 1")
        self.version = version("verifiers")
        self._sources = {"train": (taskset, dict(options or {}))}
        # Loads the taskset now: a wrong id or option ends the server's start, not the first task.
        count = len(tasks_of(*self._sources["train"]))
        if test_taskset:
            self._sources["test"] = (test_taskset, dict(test_options or {}))
            self._places = {"train": range(count), "test": range(len(tasks_of(*self._sources["test"])))}
        else:
            self._sources["test"] = self._sources["train"]
            first = max(1, count - round(count * held_out))  # at least one task is left for training
            self._places = {"train": range(first), "test": range(first, count)}
        self._tools = tuple(tools_of(tasks_of(*self._sources["train"])[0]))
        self._turns, self._pass_at = turns, pass_at
        # A task with tools is judged in its episode, whose conversation and state its rewards may read.
        self.multi_turn = bool(self._tools)
        self.verifier = "" if self.multi_turn else "prime"
        self._places = {split: places for split, places in self._places.items() if places}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of tasks of each split."""
        return {split: len(places) for split, places in self._places.items()}

    def task(self, split: str, index: int, seed: int) -> Task:
        """Task ``index`` of the split, which wraps around; ``seed`` has no effect."""
        if split not in self._places:
            raise UnknownName(f"split: {split!r} is not one of {self.name} ({', '.join(self._places)})")
        place = self._places[split][index % len(self._places[split])]
        taskset, options = self._sources[split]
        found = tasks_of(taskset, options)[place]
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=found.data.id or f"{taskset}/{place}",
            prompt=_prompt(found.data),
            verifier=self.verifier,
            payload=json.dumps({"taskset": taskset, "options": options, "idx": place}).encode(),
            seed=seed,
            multi_turn=self.multi_turn,
            tools=self._tools,
        )

    def open(self, task: Task) -> PrimeEpisode:
        """Start an episode of a task with tools."""
        taskset, options = self._sources[task.split]
        found = tasks_of(taskset, options)[json.loads(task.payload)["idx"]]
        return PrimeEpisode(found, turns=self._turns, pass_at=self._pass_at)


def _prompt(data: Any) -> Sequence[Message]:
    """System prompt and prompt as messages. Raises InvalidRequest for a task that begins with a tool or an image."""
    system = [Message(role="system", content=data.system_prompt)] if data.system_prompt else []
    prompt = data.prompt
    if isinstance(prompt, str):
        return (*system, Message(role="user", content=prompt))
    if not prompt or not all(isinstance(message.content, str) for message in prompt):
        raise InvalidRequest(
            f"prompt: task {data.idx} has none in plain text; this adapter serves single-turn text tasks"
        )
    return (*system, *(Message(role=message.role, content=message.content) for message in prompt))
