"""The interfaces of plug-ins, and loading them through entry points.

The core never imports an environment or a verifier by name; the built-in ones are registered in ``pyproject.toml`` like
those of any other package. A plug-in in another language implements the gRPC service instead.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from rlserve import references
from rlserve.errors import ConfigError, InvalidRequest, PluginFailed, RlserveError, UnknownName
from rlserve.nearest import known_names, nearest
from rlserve.records import Task, ToolCall, Turn, Verdict

ENVIRONMENT_GROUP = "rlserve.environments"
VERIFIER_GROUP = "rlserve.verifiers"
ALGORITHM_GROUP = "rlserve.algorithms"
LAUNCHER_GROUP = "rlserve.launchers"
STORE_GROUP = "rlserve.stores"
TRACKER_GROUP = "rlserve.trackers"
INSTANCE = "/"
"""Between a plug-in's name and that of one of its instances: ``"function/rows"`` has other options than another."""
HELD_OUT_SPLITS = frozenset({"validation", "test"})
"""Splits of every environment that are never trained on; an environment may hold out more (``held_out``)."""


@runtime_checkable
class Environment(Protocol):
    """A source of tasks. A task is a pure function of (split, index, seed): the same request gives the same task.

    It is constructed as ``cls(**options)`` from an ``[[environments]]`` table of the run configuration.
    """

    name: str
    version: str
    verifier: str
    """Name of the registered verifier that judges its tasks."""

    @property
    def splits(self) -> Mapping[str, int]:
        """The size of each split; 0 for an endless one."""
        ...

    def task(self, split: str, index: int, seed: int) -> Task:
        """The task at ``index``; a finite split wraps around. Raises UnknownName for an unknown split."""
        ...


class Episode(Protocol):
    """One attempt at a multi-turn task. Its answers depend on the task and the policy's texts alone.

    Rollout workers rely on that: when a server dies, a worker opens the same task on another one, sends the same texts
    again and continues. All calls of one episode come from one thread. A method ``close() -> None`` is optional; it is
    called once, at the end, however the episode ends. For example::

        episode = environment.open(task)
        episode.step("<guess>5</guess>")     # Turn(messages=(Message("user", "higher"),), done=False)
        episode.step("<guess>7</guess>")     # Turn(messages=(), done=True, verdict=Verdict(...))
        episode.close()
    """

    def step(self, text: str) -> Turn:
        """Answer the policy's next text, which is untrusted and may be cut anywhere. It may raise any exception."""
        ...


@runtime_checkable
class ToolEpisode(Episode, Protocol):
    """An episode that takes tool calls as data. Its tasks offer the tools (``Task.tools``)."""

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        """Answer a turn that calls tools; ``step`` answers every other one, malformed calls included.

        ``text`` contains the calls. Names and arguments are untrusted: any tool, any JSON object.
        """
        ...


@runtime_checkable
class EpisodicEnvironment(Environment, Protocol):
    """An environment of multi-turn tasks, which have ``multi_turn`` set."""

    multi_turn: bool
    """True."""

    def open(self, task: Task) -> Episode:
        """Begin an episode of a task of this environment; all randomness comes from ``task.seed``."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Judges completions of tasks.

    It runs in a judge process: when ``verify`` is slow or hangs, the pool kills the process at its limit. A verifier
    that waits for a server defines ``async def verify``, and then judges many completions at a time. When it cannot
    judge, it raises an exception and never returns a reward that it is unsure of. It is constructed as
    ``cls(**options)``.
    """

    name: str
    version: str

    def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge one completion against the task's payload."""
        ...


@runtime_checkable
class GroupVerifier(Verifier, Protocol):
    """A verifier that judges all completions of a task in one call; its limits are those of all of them together."""

    def verify_group(self, completions: Sequence[str], payload: bytes, prompt: str) -> Sequence[Verdict]:
        """One verdict each, in order."""
        ...


def names(group: str) -> list[str]:
    """The registered names of a group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str, *, built_in: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The plug-in class registered as ``name``, the one that ``built_in`` has under it, or the object in a user's file.

    ``name`` may be a reference such as ``"my_env.py:Env"``; of ``"function/rows"`` the part before the slash counts:
    the rest tells several instances of one plug-in apart.

    Raises UnknownName, listing the known names; PluginFailed when its import fails, or when several packages register
    different classes under the name, of which the first on the import path would win by chance.
    """
    if name in built_in:
        return built_in[name]
    if references.is_reference(name):
        return references.load(name)
    name = name.partition(INSTANCE)[0]
    # By value: one package that is found twice on the path (an editable install) registers the same class twice.
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) > 1:
        owners = " and ".join(sorted(f"{point.value} of {_package(point)}" for point in points.values()))
        raise PluginFailed(f"{group}: {name!r} is registered twice, as {owners}; rename one, or uninstall one")
    for point in points.values():
        try:
            return point.load()
        except Exception as error:
            raise PluginFailed(f"{group}: {name!r} cannot be imported: {describe_exception(error)}") from error
    raise UnknownName(f"{group}: {name!r} is not registered{known_names(name, sorted({*names(group), *built_in}))}")


def _package(point: EntryPoint) -> str:
    return repr(point.dist.name) if point.dist else "a package without a name"


def is_known(group: str, name: str) -> bool:
    """Whether ``load`` finds something under ``name``, without importing it; a reference counts as known."""
    return references.is_reference(name) or bool(entry_points(group=group, name=name.partition(INSTANCE)[0]))


def payload_check(verifier: str) -> Callable[[bytes], None] | None:
    """A verifier's ``check(payload)``, which raises InvalidRequest for a payload that the verifier would refuse.

    None when the verifier is not installed here or lacks that method; then only the verifier itself can refuse.
    """
    for point in entry_points(group=VERIFIER_GROUP, name=verifier):
        check: Callable[[bytes], None] | None = getattr(load(VERIFIER_GROUP, point.name), "check", None)
        return check
    return None


def make(
    group: str,
    name: str,
    options: Mapping[str, Any],
    *,
    where: str,
    built_in: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Create an instance of the plug-in ``name``; ``where`` is the key under which the user gave ``options``.

    Raises UnknownName; ConfigError, naming the option, for an unknown, missing or refused option; PluginFailed, naming
    exception, file and line, for any other exception of the plug-in.
    """
    kind = load(group, name, built_in=built_in)
    if problems := list(option_problems(kind, name, options, where=where)):
        raise ConfigError("\n".join(problems))
    try:
        return kind(**options)
    except InvalidRequest as error:
        # A plug-in names its option as the field; the user needs the key of the configuration.
        inside = error.field.partition(".")[0] in options
        raise ConfigError(f"{where}.{error}" if inside else f"{where}: of {name!r}: {error}") from error
    except RlserveError:
        raise
    except Exception as error:
        raise PluginFailed(f"{where}: {name!r} failed to start: {describe_exception(error)}") from error


def parameters_of(group: str, name: str) -> Mapping[str, inspect.Parameter]:
    """Parameters of the plug-in's constructor; none for one without a signature. Raises the errors of ``load``."""
    try:
        return inspect.signature(load(group, name)).parameters
    except (TypeError, ValueError):  # written in C
        return {}


def option_problems(kind: Any, name: str, options: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """Messages for options that the constructor does not take and for required ones that are missing."""
    # Read from the signature: the TypeError of a call names one option, and may come from the plug-in's own code.
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return
    # A constructor with **options takes any; its own parameters may still be required.
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for option in [] if takes_any else options:
        if option not in named:
            near = nearest(option, named)
            hint = f"; did you mean {near!r}?" if near else ""
            yield f"{where}.{option}: is not an option of {name!r}{hint} (options: {', '.join(named) or 'none'})"
    for option, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            yield f"{where}.{option}: is missing; {name!r} needs it"


def describe_exception(error: BaseException) -> str:
    """An exception in one line, with the place that raised it: ``"KeyError: 'gold' (bad.py:12)"``."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
