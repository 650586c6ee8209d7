"""An OpenEnv server: a number from 0 to 9 is to be guessed in three turns. Its argument is the port."""

import sys
from random import Random
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field


class Said(Action):
    message: str = Field(max_length=1000)


class Heard(Observation):
    echoed: str


class Numbers(Environment[Said, Heard, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Heard:
        self._hidden, self._turns = Random(seed).randrange(10), 0
        return Heard(echoed="Which number from 0 to 9?")

    def step(self, action: Said, timeout_s: float | None = None, **_: Any) -> Heard:
        self._turns += 1
        right = action.message == str(self._hidden)
        hint = "higher" if action.message.isdigit() and int(action.message[:9]) < self._hidden else "lower"
        done = right or self._turns == 3
        return Heard(echoed=f"{action.message[:99]}? {hint}", reward=float(right) + 0.25, done=done)

    @property
    def state(self) -> State:
        return State(step_count=self._turns)


app = create_fastapi_app(Numbers, Said, Heard, max_concurrent_envs=64)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
