"""What a plug-in must be, and the one door by which all of them come in: entry points.

The core never imports an environment or a verifier by name; the built-in ones are registered in
``pyproject.toml`` like anyone's. A plug-in in another language speaks the proto instead.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from rlserve.errors import PluginFailed, UnknownName
from rlserve.records import Task, Turn, Verdict

ENVIRONMENT_GROUP = "rlserve.environments"
VERIFIER_GROUP = "rlserve.verifiers"
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
    return sorted(point.name for point in entry_points(group=group))


def load(group: str, name: str) -> Any:
    """The plug-in class registered as ``name``.

    Raises UnknownName (which lists the known ones) or PluginFailed when its import fails.
    """
    for point in entry_points(group=group, name=name):
        try:
            return point.load()
        except Exception as error:
            raise PluginFailed(f"{group}: {name!r} cannot be imported: {error}") from error
    known = ", ".join(names(group)) or "none"
    raise UnknownName(f"{group}: {name!r} is not registered (known: {known})")


def payload_check(verifier: str) -> Callable[[bytes], None] | None:
    """What raises InvalidRequest for a payload that a verifier would refuse: its ``check(payload)``.

    None for a verifier that is not installed here or has no such method: what it wants, it says itself.
    """
    for point in entry_points(group=VERIFIER_GROUP, name=verifier):
        check: Callable[[bytes], None] | None = getattr(load(VERIFIER_GROUP, point.name), "check", None)
        return check
    return None


def load_all(group: str, wanted: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Instances of the plug-ins in ``wanted``, each built with its own options."""
    return {name: load(group, name)(**options.get(name, {})) for name in wanted}
