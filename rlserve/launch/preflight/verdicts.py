"""Checks the verifiers that tasks name: installed, able to start, able to judge."""

import asyncio
import inspect
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from rlserve import plugins, references
from rlserve.actors.verifier.pipe import encode_verdict
from rlserve.actors.verifier.process import judge_environment
from rlserve.config.run import RunConfig
from rlserve.errors import PluginFailed, RlserveError, UnknownName
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.launch.preflight.tasks import Taken
from rlserve.nearest import known_names
from rlserve.plugins import VERIFIER_GROUP, describe_exception
from rlserve.records import Task, Verdict

VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]{3,}\b")
"""A word of a message that may be the name of an environment variable."""
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
    for name in options:
        if not plugins.is_known(VERIFIER_GROUP, name):
            hint = known_names(name, plugins.names(VERIFIER_GROUP))
            yield Finding(f"verifier.options.{name}: no verifier of that name is installed{hint}")


def look_at_verifier(config: RunConfig, name: str, key: str, task: Task, answer: str) -> Iterator[Finding]:
    """Faults of the verifier ``name``, which ``task`` of the environment at ``key`` uses."""
    if not plugins.is_known(VERIFIER_GROUP, name):
        hint = known_names(name, plugins.names(VERIFIER_GROUP))
        yield Finding(f"{key}: its tasks name the verifier {name!r}, which is not installed{hint}")
        return
    with _as_in_a_judge_process(config) as hidden:
        for finding in _look_at(config, name, key, task, answer):
            yield replace(finding, message=finding.message + _hint(finding.message, hidden))


def _look_at(config: RunConfig, name: str, key: str, task: Task, answer: str) -> Iterator[Finding]:
    # Functions have no table of options in the configuration: the key that gives them is called reward.
    calls_functions = name in {section.verifier for section in config.rewarded_environments}
    where = f"{key}.reward" if calls_functions else f"verifier.options.{name}"
    try:
        verifier = plugins.make(VERIFIER_GROUP, name, config.verifier_options.get(name, {}), where=where)
        # As a judge process does before its first job; sandboxes are chosen here, libraries imported.
        if hasattr(verifier, "prepare"):
            verifier.prepare()
    except (PluginFailed, UnknownName) as error:
        named = str(error).startswith(where)
        yield Finding(str(error) if named else f"{where if calls_functions else f'verifier {name!r}'}: {error}")
        return
    except RlserveError as error:
        yield Finding(str(error) if str(error).startswith(where) else f"{where}: {error}")
        return
    except Exception as error:
        yield Finding(f"{where}: {name!r} cannot be made ready: {describe_exception(error)}")
        return
    if calls_functions:
        yield from _look_at_functions(config, verifier, answer, task, where)
        return
    # Two completions, for some verifiers refuse an empty one, and some any that their tasks do not expect: only one
    # that has no verdict on either is broken.
    empty, other = asyncio.run(_failures(verifier, [[""], [answer]], task))
    if empty and other:
        yield Finding(f"verifier {name!r} judges nothing of {key} (task {task.task_id!r}): {other}")
    elif empty or other:
        what = "an empty answer" if empty else f"the answer {answer[:60]!r}"
        yield warning(f"verifier {name!r} gives no verdict on {what} (task {task.task_id!r}): {empty or other}")


@contextmanager
def _as_in_a_judge_process(config: RunConfig) -> Iterator[set[str]]:
    """Gives this process the environment of a judge process for a while; yields the names that it then lacks."""
    before = dict(os.environ)
    # A name that is not set is a finding of its own.
    own = judge_environment([name for name in config.verifier.environment if name in before])
    os.environ.clear()
    os.environ.update(own)
    try:
        yield set(before) - set(own)
    finally:
        os.environ.clear()
        os.environ.update(before)


def _hint(message: str, hidden: Collection[str]) -> str:
    names = [word for word in VARIABLE.findall(message) if word in hidden]
    return (
        f"\n(verifiers get no environment variables but those in verifier.environment; add {names[0]!r})"
        if names
        else ""
    )


def _look_at_functions(config: RunConfig, verifier: Any, answer: str, task: Task, where: str) -> Iterator[Finding]:
    limit_seconds = config.verifier.limit_seconds
    sections = (section for section in config.rewarded_environments if section.name == task.environment)
    functions = ", ".join(references.name_in(f.function) for section in sections for f in section.reward)
    found: list[str] = []
    # Two each: a function that returns one reward whatever it gets would pass with one.
    asking = threading.Thread(
        target=lambda: found.extend(asyncio.run(_failures(verifier, [[answer] * 2, [""] * 2], task))), daemon=True
    )
    asking.start()
    asking.join(limit_seconds)
    if asking.is_alive():
        yield Finding(
            f"{where}: {functions} took longer than {limit_seconds:g} s for two completions of {len(answer)} "
            "characters; raise verifier.limit_seconds to what a completion needs, or write it as `async def` if it "
            "waits for a server"
        )
        return
    other, empty = found
    if other:
        yield Finding(f"{where}: {other}\n(task {task.task_id!r}, answer {answer[:60]!r})")
    elif empty:
        yield warning(f"{where}: {empty}\n(on an empty answer; such a sample has no reward and teaches nothing)")


async def _failures(verifier: Any, calls: Sequence[Sequence[str]], task: Task) -> list[str]:
    """For each call why it has no verdict, or an empty text."""
    try:
        # In one loop with close(): connections of an async verifier belong to the loop in which it opened them.
        return list(await asyncio.gather(*(_failure(verifier, completions, task) for completions in calls)))
    finally:
        if inspect.iscoroutinefunction(getattr(verifier, "close", None)):
            with suppress(Exception):
                await verifier.close()


async def _failure(verifier: Any, completions: Sequence[str], task: Task) -> str:
    groups = isinstance(verifier, plugins.GroupVerifier)
    try:
        if groups:
            verdicts = verifier.verify_group(completions, task.payload, _prompt(task))
        else:
            verdicts = verifier.verify(completions[0], task.payload, _prompt(task))
        if inspect.isawaitable(verdicts):  # an async verifier, which waits for a server
            verdicts = await verdicts
        for verdict in verdicts if groups else [verdicts]:
            if not isinstance(verdict, Verdict):
                return f"verify() returned a {type(verdict).__name__} ({verdict!r:.60}); return a Verdict"
            # A verdict must also pass the pipe of a judge process, which refuses e.g. a reward that is not finite.
            encode_verdict(verdict)
            if verdict.failure:
                return verdict.failure.message
    except RlserveError as error:
        # Notes of an error are the traceback into a function of the user's.
        return "\n".join([str(error), *getattr(error, "__notes__", ())]).rstrip()
    except Exception as error:
        return describe_exception(error)
    return ""


def _prompt(task: Task) -> str:
    if isinstance(task.prompt, str):
        return task.prompt
    return "\n".join(str(getattr(part, "content", part)) for part in task.prompt)
