"""What a plug-in must be, and the one door by which all of them come in: entry points.

The core never imports an environment or a verifier by name; the built-in ones are registered in
``pyproject.toml`` like anyone's. A plug-in in another language speaks the proto instead.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from rlserve.errors import ConfigError, InvalidRequest, PluginFailed, RlserveError, UnknownName
from rlserve.nearest import known_names, nearest
from rlserve.records import Task, Turn, Verdict

ENVIRONMENT_GROUP = "rlserve.environments"
VERIFIER_GROUP = "rlserve.verifiers"
ALGORITHM_GROUP = "rlserve.algorithms"
HELD_OUT_SPLITS = frozenset({"validation", "test"})
"""Splits that training never draws from, in every environment; one may hold out more (``held_out``)."""


@runtime_checkable
class Environment(Protocol):
    """A source of tasks. Pure in (split, index, seed): the same request is always the same task.

    Constructed as ``cls(**options)`` from the ``[[environments]]`` table of a run configuration.
    """

    name: str
    version: str
    verifier: str
    """Registered verifier of its tasks."""

    @property
    def splits(self) -> Mapping[str, int]:
        """Size of each split; 0 means endless."""
        ...

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index`` (a finite split wraps around). Raises UnknownName for a bad split."""
        ...


class Episode(Protocol):
    """One run through a multi-turn task. Its answers follow from the task and the policy's texts alone.

    A worker relies on that: when a server dies, it opens the same task on another, sends the same texts again
    and goes on. All calls of one episode come from one thread. ``close() -> None`` is optional and is called
    once, at the end, however it ends.
    """

    def step(self, text: str) -> Turn:
        """Answer the policy's next text, which is untrusted and may be cut anywhere. Raises what it likes."""
        ...


@runtime_checkable
class EpisodicEnvironment(Environment, Protocol):
    """An environment that answers turns; its tasks have ``multi_turn`` set."""

    multi_turn: bool
    """True."""

    def open(self, task: Task) -> Episode:
        """Begin an episode of ``task``, which this environment gave; randomness comes from ``task.seed`` alone."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Judges completions of one task.

    Runs in a killable worker process: ``verify`` may be slow or stuck, the pool's limit ends it. One that waits for
    others, such as a server, says ``async def verify``: then many completions are judged at once.
    Raises when it cannot judge; it never returns a reward that it is unsure of.
    Constructed as ``cls(**options)``.
    """

    name: str
    version: str

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion against the task's payload."""
        ...


def names(group: str) -> list[str]:
    """Registered names of a group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The plug-in class registered as ``name``.

    Raises UnknownName (which lists the known ones) or PluginFailed when its import fails, or when several packages
    register other classes under this name: which of them answered would depend on the order of the path.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) > 1:
        owners = " and ".join(sorted(f"{point.value} of {_package(point)}" for point in points.values()))
        raise PluginFailed(
            f"{group}: {name!r} is registered twice, as {owners}; give yours another name, or uninstall one"
        )
    for point in points.values():
        try:
            return point.load()
        except Exception as error:
            raise PluginFailed(f"{group}: {name!r} cannot be imported: {told(error)}") from error
    raise UnknownName(f"{group}: {name!r} is not registered{known_names(name, names(group))}")


def _package(point: EntryPoint) -> str:
    return repr(point.dist.name) if point.dist else "a package without a name"


def payload_check(verifier: str) -> Callable[[bytes], None] | None:
    """What raises InvalidRequest for a payload that a verifier would refuse: its ``check(payload)``.

    None for a verifier that is not installed here or has no such method: what it wants, it says itself.
    """
    for point in entry_points(group=VERIFIER_GROUP, name=verifier):
        check: Callable[[bytes], None] | None = getattr(load(VERIFIER_GROUP, point.name), "check", None)
        return check
    return None


def make(group: str, name: str, options: Mapping[str, Any], *, where: str) -> Any:
    """An instance of the plug-in ``name``; ``where`` is the key under which the user gave ``options``.

    Raises UnknownName; ConfigError, which names the option, for options that it does not take or that it refuses;
    PluginFailed, which names exception, file and line, for anything else that it raises.
    """
    kind = load(group, name)
    if problems := list(option_problems(kind, name, options, where=where)):
        raise ConfigError("\n".join(problems))
    try:
        return kind(**options)
    except InvalidRequest as error:
        inside = error.field.partition(".")[0] in options
        raise ConfigError(f"{where}.{error}" if inside else f"{where}: of {name!r}: {error}") from error
    except RlserveError:
        raise
    except Exception as error:
        raise PluginFailed(f"{where}: {name!r} failed to start: {told(error)}") from error


def option_problems(kind: Any, name: str, options: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """What of ``options`` the constructor does not take, and what it lacks, as messages "field: what; fix"."""
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # written in C: only a call can tell
        return
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for option in [] if takes_any else options:
        if option not in named:
            near = nearest(option, named)
            hint = f"; did you mean {near!r}?" if near else ""
            yield f"{where}.{option}: is no option of {name!r}{hint} (options: {', '.join(named) or 'none'})"
    for option, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            yield f"{where}.{option}: is missing; {name!r} needs it"


def told(error: BaseException) -> str:
    """An exception in one line, with the place that raised it: ``"KeyError: 'gold' (bad.py:12)"``."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"
