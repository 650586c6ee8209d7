"""Environments behind OpenEnv's servers, over their WebSocket."""

import contextlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from rlserve.environments.adapters.play import (
    SPLITS,
    answer_of,
    check_format,
    check_split,
    library,
    seed_of,
    task_of,
    verdict_of,
)
from rlserve.errors import InvalidRequest, Unavailable
from rlserve.records import Task, Turn
from rlserve.verifiers.reasoning import answer_of as without_thoughts

USUAL_TURNS = 64
"""Turns of the policy. Any value of this size will do: it bounds an environment that has no end of its own."""
REFUSED = ("VALIDATION_ERROR", "INVALID_JSON")
"""Codes with which a server refuses an action; the policy reads the reason. Any other error is the server's."""


class OpenEnvEnvironment:
    """An environment of the OpenEnv server at ``url``; the sum of its rewards is the reward.

    Each episode is a session of its own, begun with ``reset`` and a seed, which the environment must follow. The
    policy's text becomes the action ``{action: text}``; with ``action`` empty it is the action itself, a JSON object.
    The policy reads the field ``observation`` (``"a.b"`` for a nested one), or with that empty all fields as JSON.

    Example::

        environment = OpenEnvEnvironment(url="http://127.0.0.1:8000", action="message", observation="echoed_message")
        episode = environment.open(environment.task("train", 0, 0))
        episode.step("hello")
    """

    name = "openenv"
    verifier = ""  # the environment's own reward counts
    multi_turn = True

    def __init__(
        self,
        *,
        url: str,
        action: str = "message",
        observation: str = "",
        reset: Mapping[str, Any] | None = None,
        instruction: str = "",
        turns: int = USUAL_TURNS,
        pass_at: float | None = None,
        call_seconds: float = 8.0,
        prompt_format: str = "chat",
    ) -> None:
        check_format(self.name, prompt_format)
        if not url.startswith(("http://", "https://", "ws://", "wss://")):
            raise InvalidRequest(f"url: is {url!r}; give http://HOST:PORT")
        if turns < 1 or call_seconds <= 0:
            raise InvalidRequest("turns, call_seconds: give numbers above 0")
        self._library = library("openenv.core", "openenv")
        self._url, self._reset, self._call_seconds = url, dict(reset or {}), call_seconds
        self._action, self._observation = action, observation
        self._instruction = instruction or ("" if action else "Answer with one action, as a JSON object.")
        self._turns, self._pass_at, self._prompt_format = turns, pass_at, prompt_format
        self.version = version("openenv-core")
        self.task("train", 0, 0)  # an unreachable server ends the start, not the first task

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless, with seeds of their own."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The episode that begins with the split's seed at ``index``. Raises UnknownName for an unknown split."""
        check_split(self.name, split)
        client, observation = self._begun(split, index, seed)
        _end(client)
        shown = self._shown(observation)
        return task_of(
            self,
            split,
            index,
            seed,
            task_id=f"{split}/{seed}/{index}",
            text="\n\n".join(filter(None, (shown, self._instruction))),
            prompt_format=self._prompt_format,
        )

    def open(self, task: Task) -> "OpenEnvEpisode":
        """Start an episode of ``task``."""
        client, _ = self._begun(task.split, task.index, task.seed)
        return OpenEnvEpisode(self, client)

    def action_of(self, text: str) -> dict[str, Any]:
        """The policy's text as an action. Raises ValueError for one that is no JSON object, where it must be one."""
        text = without_thoughts(text, "").encode("utf-8", "replace").decode().strip()
        if self._action:
            return {self._action: text}
        try:
            action = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deep") from None
        if not isinstance(action, dict):
            raise ValueError("no object")
        return action

    def answer(self, observation: Mapping[str, Any] | str, total: float, taken: int, done: bool) -> Turn:
        """What the policy reads, and the verdict so far."""
        done = done or taken >= self._turns
        text = observation if isinstance(observation, str) else self._shown(observation)
        verdict = verdict_of(
            self.name, total, pass_at=self._pass_at, turns=taken, reason=f"return {total:g} after {taken} turns"
        )
        return Turn(messages=() if done else answer_of(text, self._prompt_format), done=done, verdict=verdict)

    def _begun(self, split: str, index: int, seed: int) -> tuple[Any, Mapping[str, Any]]:
        seconds = self._call_seconds
        client = self._library.GenericEnvClient(
            self._url, connect_timeout_s=seconds, message_timeout_s=seconds, mode="simulation"
        ).sync()
        try:
            result = client.reset(**{"seed": seed_of(split, index, seed), **self._reset})
        except Exception as error:  # of sockets, of the server, of the environment
            _end(client)
            raise Unavailable(f"OpenEnv server {self._url}: {type(error).__name__}: {error}") from error
        return client, result.observation

    def _shown(self, observation: Mapping[str, Any]) -> str:
        found: Any = {key: value for key, value in observation.items() if key not in ("done", "reward", "metadata")}
        for key in filter(None, self._observation.split(".")):
            if not isinstance(found, Mapping) or key not in found:
                known = ", ".join(found) if isinstance(found, Mapping) else "none"
                raise InvalidRequest(f"observation: {self._observation!r} has no {key!r} (fields: {known})")
            found = found[key]
        return found if isinstance(found, str) else json.dumps(found)


class OpenEnvEpisode:
    """One session."""

    def __init__(self, environment: OpenEnvEnvironment, client: Any) -> None:
        self._environment, self._client = environment, client
        self._taken, self._total = 0, 0.0

    def step(self, text: str) -> Turn:
        """Take the action in the text, and show what came of it."""
        self._taken += 1
        try:
            result = self._client.step(self._environment.action_of(text))
        except ValueError as error:
            return self._said(f"That is no action: {error}")
        except RuntimeError as error:
            if not any(code in str(error) for code in REFUSED):
                raise Unavailable(f"OpenEnv server: {error}") from error
            return self._said(f"That is no action: {error}")
        self._total += float(result.reward or 0.0)
        return self._environment.answer(result.observation, self._total, self._taken, bool(result.done))

    def close(self) -> None:
        """End the session."""
        _end(self._client)

    def _said(self, text: str) -> Turn:
        return self._environment.answer(text, self._total, self._taken, done=False)


def _end(client: Any) -> None:
    with contextlib.suppress(Exception):  # the session is over, and its server may be gone
        client.close()
