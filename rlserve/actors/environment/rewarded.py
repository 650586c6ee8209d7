"""An environment whose tasks are rewarded by functions of the user's, in place of the verifier that it names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.errors import PluginFailed
from rlserve.plugins import (
    ENVIRONMENT_GROUP,
    Environment,
    Episode,
    EpisodicEnvironment,
    ToolEpisode,
    parameters_of,
)
from rlserve.records import Task, ToolCall, Turn

VERIFIER_OPTION = "verifier"


def rewarded(environment: Environment, verifier: str) -> Environment:
    """``environment`` with tasks for ``verifier``, whose payload are the task's columns.

    The columns are what the environment's optional method ``columns(split, index, seed)`` returns, else the fields of
    the payload that it makes.
    """
    # Whoever shows an environment or blames it for an error looks at its class.
    like = {"__doc__": type(environment).__doc__, "__module__": type(environment).__module__}
    made: Environment = type(type(environment).__name__, (_Rewarded,), like)(environment, verifier)
    return made


def options_of(section: EnvironmentConfig) -> dict[str, Any]:
    """The options of an environment; one that asks for its verifier's name and is rewarded by functions gets theirs.

    Such as ``dataset``, which else refuses rows that the verifier could not judge.
    """
    asks = VERIFIER_OPTION not in section.options and section.verifier
    if not asks or VERIFIER_OPTION not in parameters_of(ENVIRONMENT_GROUP, section.plugin or section.name):
        return section.options
    return {**section.options, VERIFIER_OPTION: section.verifier}


class _Rewarded:
    """All else is that of the environment inside."""

    def __init__(self, environment: Environment, verifier: str) -> None:
        self._environment = environment
        self.verifier = verifier

    def __getattr__(self, name: str) -> Any:
        # Not ``self._environment``: before __init__ that would look itself up without end.
        return getattr(self.__dict__["_environment"], name)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The environment's task, for the functions."""
        task: object = self._environment.task(split, index, seed)
        # Given completions need no reward, and whoever asked for a task refuses anything else.
        if not isinstance(task, Task) or task.given:
            return task  # type: ignore[return-value]
        columns = getattr(self._environment, "columns", None)
        payload = task.payload if columns is None else _encoded(columns(split, index, seed))
        return replace(task, verifier=self.verifier, payload=payload)

    def open(self, task: Task) -> Episode:
        """An episode of the environment, whose own verdicts do not count."""
        # Its payload is the functions' by now: the environment finds its own in the task that it made.
        episode = cast(EpisodicEnvironment, self._environment).open(
            self._environment.task(task.split, task.index, task.seed)
        )
        return _UnjudgedTools(episode) if isinstance(episode, ToolEpisode) else _Unjudged(episode)


class _Unjudged:
    """An episode without its verdicts: the worker takes the one of a task's episode before that of its verifier."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode

    def step(self, text: str) -> Turn:
        """The episode's answer."""
        return replace(self._episode.step(text), verdict=None)

    def close(self) -> None:
        """End the episode, if that is asked for."""
        if hasattr(self._episode, "close"):
            self._episode.close()


class _UnjudgedTools(_Unjudged):
    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        """The episode's answer to tool calls."""
        return replace(cast(ToolEpisode, self._episode).call(text, calls), verdict=None)


def _encoded(columns: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(columns).encode()
    except (TypeError, ValueError) as error:
        bad = next((name for name, value in columns.items() if not _is_plain(value)), "")
        raise PluginFailed(f"columns: {bad!r} cannot be written as JSON ({error}); give plain values") from error


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
