"""FunctionVerifier: the verdicts of a group from one or several functions of the user's files."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlserve.errors import InvalidRequest, PluginFailed
from rlserve.records import Failure, FailureKind, Verdict
from rlserve.records.verdict import LARGEST_REWARD, outcome_of
from rlserve.verifiers.function.reward import Group, RewardFunction


class FunctionVerifier:
    """Rewards all completions of a task by one call of each function: ``f(prompts, completions, **columns)``.

    The reward is the sum of the functions' rewards times their weights; a function that returns None for a completion
    has no part in it. 1 is right and 0 is wrong; any other reward is neither, and then there is no accuracy.
    """

    name = "function"
    version = "1"
    description = "functions in Python files, called as TRL calls its own"
    reward_range = (-LARGEST_REWARD, LARGEST_REWARD)

    _functions: Sequence[RewardFunction]

    def __new__(cls, *, functions: Sequence[str | Mapping[str, Any]] = ()) -> "FunctionVerifier":
        """``functions`` are ``"FILE.py:NAME"`` or tables with ``function`` and ``weight``.

        Raises InvalidRequest, UnknownName or PluginFailed for a function that cannot be had.
        """
        made = [_function(value) for value in functions]
        parts = [function.part for function in made]
        if twice := sorted({part for part in parts if parts.count(part) > 1}):
            raise InvalidRequest(f"functions: {twice[0]!r} is there twice; give functions of different names")
        # Here, not in __init__: whether a verifier waits for a server is a property of its class.
        self = object.__new__(AsyncFunctionVerifier if any(function.is_async for function in made) else cls)
        self._functions = made
        return self

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """The verdict on one completion."""
        return self.verify_group([completion], payload, prompt)[0]

    def verify_group(self, completions: Sequence[str], payload: bytes, prompt: str) -> list[Verdict]:
        """A verdict each. Raises PluginFailed, which names function and line, when a function fails."""
        group = Group.of(completions, payload, prompt)
        return self._verdicts([_called(function, group) for function in self._functions], len(completions))

    def _verdicts(self, rewards: Sequence[Sequence[float | None]], count: int) -> list[Verdict]:
        return [self._verdict([row[index] for row in rewards]) for index in range(count)]

    def _verdict(self, rewards: Sequence[float | None]) -> Verdict:
        given = [(f, reward) for f, reward in zip(self._functions, rewards, strict=True) if reward is not None]
        if not given:
            failure = Failure(
                source=f"verifier:{self.name}",
                kind=FailureKind.INVALID,
                message=f"{', '.join(f.name for f in self._functions)} returned None",
                retriable=False,
            )
            return Verdict.none(failure)
        total = math.fsum(function.weight * reward for function, reward in given)
        return Verdict(
            outcome=outcome_of(total, None),
            reward=total,
            parts={function.part: reward for function, reward in given},
            reason=", ".join(f"{function.part} {reward:g}" for function, reward in given),
            verifier=self.name,
        )


class AsyncFunctionVerifier(FunctionVerifier):
    """The same where a function is ``async``: many groups are judged at once, in one process."""

    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:  # type: ignore[override]
        """The verdict on one completion."""
        return (await self.verify_group([completion], payload, prompt))[0]

    async def verify_group(  # type: ignore[override]
        self, completions: Sequence[str], payload: bytes, prompt: str
    ) -> list[Verdict]:
        """A verdict each; all functions at once."""
        group = Group.of(completions, payload, prompt)
        return self._verdicts(await asyncio.gather(*(_awaited(f, group) for f in self._functions)), len(completions))


def _function(value: str | Mapping[str, Any]) -> RewardFunction:
    if isinstance(value, str):
        return RewardFunction(value)
    return RewardFunction(str(value["function"]), float(value.get("weight", 1.0)))


def _called(function: RewardFunction, group: Group) -> list[float | None]:
    arguments = function.arguments(group)
    try:
        returned = function.function(**arguments)
    except MemoryError:  # told as such, with the limit
        raise
    except Exception as error:
        raise function.failed(error) from error
    return function.checked(returned, len(group.completions))


async def _awaited(function: RewardFunction, group: Group) -> list[float | None]:
    if not function.is_async:
        # Beside the loop: a plain function would hold up all the calls that wait.
        return await asyncio.to_thread(_called, function, group)
    arguments = function.arguments(group)
    try:
        returned = await function.function(**arguments)
    except PluginFailed:
        raise
    except Exception as error:
        raise function.failed(error) from error
    return function.checked(returned, len(group.completions))
