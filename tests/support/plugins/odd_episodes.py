"""Environments whose episodes do what their policy's text says, good or bad."""

import threading
import time

from rlserve.records import Message, Task, Turn

RELEASED = threading.Event()
"""Set it to let go of episodes stuck at ``"hang"``."""


class OddEnvironment:
    """Its episodes obey: ``echo``, ``raise``, ``exit``, ``hang``, ``nonsense``, ``bad-role``, ``done``."""

    name = "odd"
    version = "1"
    verifier = "exact"
    multi_turn = True

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.threads: set[int] = set()

    @property
    def splits(self) -> dict[str, int]:
        return {"train": 0}

    def task(self, split: str, index: int, seed: int) -> Task:
        return Task(
            environment=self.name,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=f"{seed}/{index}",
            verifier=self.verifier,
            payload=f'{{"answer": "{index}"}}'.encode(),
            seed=seed,
            multi_turn=True,
        )

    def open(self, task: Task) -> "OddEpisode":
        return OddEpisode(self, task)


class OddEpisode:
    def __init__(self, environment: OddEnvironment, task: Task) -> None:
        self._environment = environment
        self._task = task

    def step(self, text: str) -> Turn:
        self._environment.threads.add(threading.get_ident())
        if text == "raise":
            raise KeyError("inventory")
        if text == "exit":
            raise SystemExit(3)
        if text == "hang":
            RELEASED.wait(20)
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        if text == "nonsense":
            return ("not", "a turn")  # type: ignore[return-value]
        role = "wizard" if text == "bad-role" else "user"
        reply = Message(role=role, content=f"{self._task.payload.decode()} {text}")
        return Turn(messages=(reply,), done=text == "done")

    def close(self) -> None:
        self._environment.closed.append(self._task.task_id)
