"""Checks the verifiers that tasks name: installed, able to start, able to judge."""

import asyncio
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rlserve import plugins
from rlserve.actors.verifier.pipe import encode_verdict
from rlserve.config.run import RunConfig
from rlserve.errors import PluginFailed, RlserveError, UnknownName
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.launch.preflight.tasks import Taken
from rlserve.nearest import known_names
from rlserve.plugins import VERIFIER_GROUP, describe_exception
from rlserve.records import Task, Verdict

ANY_ANSWER = "0"
"""For tasks without a demonstration: a verifier must have a verdict on any text."""


def wanted(taken: Iterable[Taken]) -> dict[str, tuple[str, Task, str]]:
    """By verifier: the key of an environment that uses it, one of its tasks, and an answer that is not empty."""
    found: dict[str, tuple[str, Task, str]] = {}
    for part in taken:
        for task in part.tasks:
            if task.verifier:
                answer = part.answer if task is part.tasks[0] and part.answer else ANY_ANSWER
                found.setdefault(task.verifier, (f"environments.{part.index}", task, answer))
    return found


def look_at_options(options: Mapping[str, Any]) -> Iterator[Finding]:
    """Options for verifiers that are not installed."""
    known = plugins.names(VERIFIER_GROUP)
    for name in options:
        if name not in known:
            yield Finding(f"verifier.options.{name}: no verifier of that name is installed{known_names(name, known)}")


def look_at_verifier(config: RunConfig, name: str, key: str, task: Task, answer: str) -> Iterator[Finding]:
    """Faults of the verifier ``name``, which ``task`` of the environment at ``key`` uses."""
    known = plugins.names(VERIFIER_GROUP)
    if name not in known:
        yield Finding(f"{key}: its tasks name the verifier {name!r}, which is not installed{known_names(name, known)}")
        return
    where = f"verifier.options.{name}"
    try:
        verifier = plugins.make(VERIFIER_GROUP, name, config.verifier.options.get(name, {}), where=where)
        # As a judge process does before its first job; sandboxes are chosen here, libraries imported.
        if hasattr(verifier, "prepare"):
            verifier.prepare()
    except (PluginFailed, UnknownName) as error:
        yield Finding(str(error) if str(error).startswith(where) else f"verifier {name!r}: {error}")
        return
    except RlserveError as error:
        yield Finding(str(error) if str(error).startswith(where) else f"{where}: {error}")
        return
    except Exception as error:
        yield Finding(f"{where}: {name!r} cannot be made ready: {describe_exception(error)}")
        return
    # Two completions, for some verifiers refuse an empty one, and some any that their tasks do not expect: only one
    # that has no verdict on either is broken.
    empty, other = asyncio.run(_failures(verifier, ("", answer), task))
    if empty and other:
        yield Finding(f"verifier {name!r} judges nothing of {key} (task {task.task_id!r}): {other}")
    elif empty or other:
        what = "an empty answer" if empty else f"the answer {answer[:60]!r}"
        yield warning(f"verifier {name!r} gives no verdict on {what} (task {task.task_id!r}): {empty or other}")


async def _failures(verifier: Any, completions: Sequence[str], task: Task) -> list[str]:
    """For each completion why it has no verdict, or an empty text."""
    try:
        # In one loop with close(): connections of an async verifier belong to the loop in which it opened them.
        return list(await asyncio.gather(*(_failure(verifier, completion, task) for completion in completions)))
    finally:
        if inspect.iscoroutinefunction(getattr(verifier, "close", None)):
            with suppress(Exception):
                await verifier.close()


async def _failure(verifier: Any, completion: str, task: Task) -> str:
    try:
        verdict = verifier.verify(completion, task.payload, _prompt(task))
        if inspect.isawaitable(verdict):  # an async verifier, which waits for a server
            verdict = await verdict
        if not isinstance(verdict, Verdict):
            return f"verify() returned a {type(verdict).__name__} ({verdict!r:.60}); return a Verdict"
        # A verdict must also pass the pipe of a judge process, which refuses e.g. a reward that is not finite.
        encode_verdict(verdict)
    except RlserveError as error:
        return str(error)
    except Exception as error:
        return describe_exception(error)
    return verdict.failure.message if verdict.failure else ""


def _prompt(task: Task) -> str:
    if isinstance(task.prompt, str):
        return task.prompt
    return "\n".join(str(getattr(part, "content", part)) for part in task.prompt)
