"""One reward function: which arguments it gets, and the checks of what it returns."""

import inspect
import json
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlserve import references
from rlserve.errors import InvalidRequest, PluginFailed
from rlserve.nearest import nearest
from rlserve.records.verdict import LARGEST_REWARD

ROW = "columns"
"""Field of a payload with columns of its own."""
MAX_SHOWN_CHARACTERS = 60
"""Of a value in an error message. Any value of this size will do: a part of a line."""


@dataclass(frozen=True)
class Group:
    """All completions of one task, as functions see them."""

    completions: Sequence[str]
    columns: Mapping[str, Any]
    """The fields of the payload."""
    prompt: str
    """The prompt as the chat template wrote it."""

    @classmethod
    def of(cls, completions: Sequence[str], payload: bytes, prompt: str) -> "Group":
        """The group of a task. Raises InvalidRequest for a payload that is no JSON object."""
        if not payload:
            return cls(completions, {}, prompt)
        try:
            columns = json.loads(payload)
        except (ValueError, RecursionError) as error:  # RecursionError: brackets nested some thousand deep
            raise InvalidRequest(f"payload: is not JSON ({error}); a function needs an object of columns") from error
        if not isinstance(columns, dict):
            raise InvalidRequest(f"payload: is a {type(columns).__name__}; a function needs an object of columns")
        # Data sets send their rows beside the right answer, which other verifiers need.
        rows = columns.pop(ROW, {})
        return cls(completions, {**columns, **rows} if isinstance(rows, dict) else {**columns, ROW: rows}, prompt)

    @cached_property
    def arguments(self) -> Mapping[str, list[Any]]:
        """``prompts``, ``completions`` and the columns: a list each, with one element a completion."""
        count = len(self.completions)
        prompt = self.columns.get("prompt", self.prompt)
        completions: list[Any] = list(self.completions)
        # As in TRL: where the data has messages, a completion is a list with the assistant's message.
        if not isinstance(prompt, str):
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        # As in TRL, too: these two stand in the lists above.
        columns = {
            name: [value] * count for name, value in self.columns.items() if name not in ("prompt", "completion")
        }
        return {**columns, "prompts": [prompt] * count, "completions": completions}


@dataclass(frozen=True)
class RewardFunction:
    """One function of a file. Its errors name it, and the line of the file."""

    reference: str
    weight: float = 1.0
    function: Any = field(init=False)

    def __post_init__(self) -> None:
        found = references.load(self.reference)
        if inspect.isclass(found) or not callable(found):
            what = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
            raise InvalidRequest(f"functions: {self.name!r} is {what}; give a function")
        object.__setattr__(self, "function", found)

    @property
    def name(self) -> str:
        """The reference without the directories of its file."""
        file = references.file_of(self.reference)
        return self.reference if file is None else f"{file.name}:{references.name_in(self.reference)}"

    @property
    def part(self) -> str:
        """Name of its reward among the parts of a verdict."""
        return references.name_in(self.reference)

    @cached_property
    def is_async(self) -> bool:
        """Whether it is an ``async def``, or an object whose ``__call__`` is."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__)

    def arguments(self, group: Group) -> Mapping[str, list[Any]]:
        """What the function takes of ``group``. Raises PluginFailed, which lists the columns, for what is not there."""
        given = group.arguments
        parameters = self._parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            wanted = given
        else:
            wanted = {name: values for name, values in given.items() if name in parameters}
        named = (p for p in parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        for parameter in named:
            if parameter.default is parameter.empty and parameter.name not in given:
                near = nearest(parameter.name, given)
                hint = f"; did you mean {near!r}?" if near else ""
                columns = ", ".join(name for name in given if name not in ("prompts", "completions")) or "none"
                raise PluginFailed(
                    f"{self.name} takes {parameter.name!r}, which is no column of the task{hint} (columns: {columns}; "
                    "beside them prompts and completions)"
                )
        return wanted

    def checked(self, returned: Any, count: int) -> list[float | None]:
        """One reward a completion; None is no verdict. Raises PluginFailed for anything else."""
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            raise PluginFailed(f"{self.name} returned a coroutine; declare it as `async def`, or await in it")
        if isinstance(returned, str | bytes | Mapping) or not hasattr(returned, "__iter__"):
            raise PluginFailed(f"{self.name} returned {_shown(returned)}; return a list with a number a completion")
        values = list(returned)
        if len(values) != count:
            rewards = f"{len(values)} reward{'' if len(values) == 1 else 's'}"
            completions = f"{count} completion{'' if count == 1 else 's'}"
            raise PluginFailed(f"{self.name} returned {rewards} for {completions}; return one for each")
        return [self._number(value, index) for index, value in enumerate(values)]

    def story(self, error: BaseException) -> str:
        """The traceback of an exception, from the first line of the function's own file on."""
        frames = traceback.extract_tb(error.__traceback__)
        first = next((i for i, frame in enumerate(frames) if frame.filename == str(self._file)), 0)
        return "".join(
            [
                "Traceback (most recent call last):\n",
                *traceback.format_list(frames[first:]),
                *traceback.format_exception_only(error),
            ]
        )

    def failed(self, error: Exception) -> PluginFailed:
        """The error for an exception that the function raised, with its traceback as a note."""
        failure = PluginFailed(f"{self.name} raised {references.told(error, self._file)}")
        failure.add_note(self.story(error))
        return failure

    @property
    def _file(self) -> Path | None:
        file = inspect.getsourcefile(inspect.unwrap(self.function)) if inspect.isroutine(self.function) else None
        return Path(file).absolute() if file else references.file_of(self.reference)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # written in C, without a signature
            return {"columns": inspect.Parameter("columns", inspect.Parameter.VAR_KEYWORD)}

    def _number(self, value: Any, index: int) -> float | None:
        if value is None:
            return None
        # A tensor or an array of numpy gives numbers that are no float, and float("3") would take a text for one.
        if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise PluginFailed(f"{self.name} returned {_shown(value)} as reward {index}; return a number, or None")
        number = float(value)
        if not math.isfinite(number) or abs(number) > LARGEST_REWARD:
            raise PluginFailed(
                f"{self.name} returned {number} as reward {index}; return a number within {LARGEST_REWARD:g} of 0, or "
                "None for no verdict"
            )
        return number


def _shown(value: object) -> str:
    text = repr(value)
    shown = text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."
    return f"{shown} (a {type(value).__name__})"
