"""Who is alive: leases as a pure state machine. No socket, no task; the clock comes in.

A lease ends ``lease_seconds`` after its last renewal, at the next :meth:`Registry.tick`. Every change is told
to the listeners in the order in which it happens.
"""

import logging
import math
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from rlserve.errors import InvalidRequest, LimitExceeded, NotReady, UnknownName
from rlserve.records import Actor, ActorEvent, ActorKind, Change

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
Listener = Callable[[ActorEvent], None]

MAX_ACTORS = 4096
MAX_INCARNATIONS = 16


@dataclass(slots=True)
class _Entry:
    actor: Actor
    lease_id: str
    deadline: float
    """Monotonic seconds at which the lease ends."""


class Registry:
    """Actors by lease. One actor id has at most one live process; a newer process takes the place of an older."""

    def __init__(self, *, lease_seconds: float, clock: Clock, wall_clock: Clock) -> None:
        """``clock`` is monotonic and decides; ``wall_clock`` only stamps records for people."""
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._entries: dict[str, _Entry] = {}
        self._lease_of_actor: dict[str, str] = {}
        # Processes seen under each actor id, oldest first.
        self._incarnations: dict[str, deque[str]] = {}
        self._held: set[str] = set()
        """Leases that never end; they take no room from actors."""
        self._listeners: list[Listener] = []
        self._last_tick = clock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of every change from now on; call the result to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def register(self, actor: Actor) -> str:
        """Enter or re-enter the registry; returns the lease id.

        The same incarnation only gets a new lease (it lost its own). A new incarnation replaces the old one,
        which may not come back: a process that was stopped for a while must not evict its successor. A learner that
        lives is never replaced, nor is one of another kind. Raises InvalidRequest for a replaced incarnation and for
        an id that a living actor of another kind has, NotReady for a second learner, LimitExceeded when the registry
        is full.
        """
        present = self._entries.get(self._lease_of_actor.get(actor.actor_id, ""))
        if present is not None and present.lease_id in self._held:
            raise InvalidRequest(
                f"actor.actor_id: {actor.actor_id!r} stands for an environment without a lease; take another id"
            )
        return self._enter_anew(actor, present)

    def _enter_anew(self, actor: Actor, present: _Entry | None) -> str:
        """Enter or re-enter; ``present`` is the live entry under the actor's id."""
        self._check_learner(actor)
        _check_kind(actor, present)
        self._note_incarnation(actor)
        if present is None and len(self._entries) - len(self._held) >= MAX_ACTORS:
            raise LimitExceeded(f"actors: {MAX_ACTORS} are registered, which is the limit")
        now = self._wall_clock()
        entry = _Entry(
            actor=replace(actor, registered_unix_seconds=now, last_seen_unix_seconds=now),
            lease_id=uuid.uuid4().hex,
            deadline=self._clock() + self.lease_seconds,
        )
        self._enter(entry, present)
        return entry.lease_id

    def hold(self, actor: Actor) -> str:
        """Enter an actor whose lease never ends, for one that cannot send heartbeats; returns the lease id."""
        present = self._entries.get(self._lease_of_actor.get(actor.actor_id, ""))
        lease_id = self._enter_anew(actor, present)
        self._entries[lease_id].deadline = math.inf
        self._held.add(lease_id)
        return lease_id

    def set_serves(self, lease_id: str, serves: Collection[str]) -> None:
        """Change the names that an actor answers for. Raises UnknownName when its lease has ended."""
        entry = self._find(lease_id)
        if tuple(serves) == entry.actor.serves:
            return
        self._tell(Change.LEFT, entry.actor)
        entry.actor = replace(entry.actor, serves=tuple(serves))
        self._tell(Change.JOINED, entry.actor)

    def actor_of(self, lease_id: str) -> Actor:
        """The actor of a live lease. Raises UnknownName."""
        return self._find(lease_id).actor

    def renew(self, lease_id: str, status: Mapping[str, str]) -> None:
        """Start the lease anew. Raises UnknownName when it has ended: register again."""
        entry = self._find(lease_id)
        entry.deadline = self._clock() + self.lease_seconds
        entry.actor = replace(entry.actor, status=dict(status), last_seen_unix_seconds=self._wall_clock())

    def deregister(self, lease_id: str) -> Actor:
        """Leave at once. Raises UnknownName when the lease has ended."""
        return self._drop(self._find(lease_id), Change.LEFT)

    def tick(self) -> list[Actor]:
        """End the leases that ran out; returns their actors. Call it a few times per lease.

        When the calls themselves stopped for more than half a lease, this process stood still (a debugger, a
        suspended machine) and could not hear renewals: the leases then get that time on top.
        """
        now = self._clock()
        pause = now - self._last_tick
        self._last_tick = now
        if pause > self.lease_seconds / 2:
            logger.warning("hub stood still for %.1f s; leases are prolonged by as much", pause)
            for entry in self._entries.values():
                entry.deadline += pause
        ended = [entry for entry in self._entries.values() if entry.deadline <= now]
        return [self._drop(entry, Change.EXPIRED) for entry in ended]

    def actors(self, kind: ActorKind | None = None) -> list[Actor]:
        """Live actors of a kind (None: all), in the order of registration."""
        return [e.actor for e in self._entries.values() if kind is None or e.actor.kind is kind]

    def is_live(self, lease_id: str) -> bool:
        """True while the lease has not ended."""
        return lease_id in self._entries

    def _enter(self, entry: _Entry, present: _Entry | None) -> None:
        if present is not None and _face(present.actor) == _face(entry.actor):
            del self._entries[present.lease_id]
            self._held.discard(present.lease_id)
        elif present is not None:
            self._drop(present, Change.LEFT)
            present = None
        self._entries[entry.lease_id] = entry
        self._lease_of_actor[entry.actor.actor_id] = entry.lease_id
        if present is None:
            self._tell(Change.JOINED, entry.actor)

    def _check_learner(self, actor: Actor) -> None:
        """A run has one learner: workers send what they made to whoever is registered as it."""
        if actor.kind is not ActorKind.LEARNER:
            return
        for entry in self._entries.values():
            if entry.actor.kind is ActorKind.LEARNER and entry.actor.incarnation != actor.incarnation:
                raise NotReady(
                    f"actor.kind: {entry.actor.actor_id!r} at {entry.actor.address} is the learner of this hub, and "
                    f"alive; a run has one. Stop it, or wait {entry.deadline - self._clock():.0f} s for its end"
                )

    def _note_incarnation(self, actor: Actor) -> None:
        seen = self._incarnations.setdefault(actor.actor_id, deque(maxlen=MAX_INCARNATIONS))
        if actor.incarnation not in seen:
            seen.append(actor.incarnation)
        elif actor.incarnation != seen[-1]:
            raise InvalidRequest(
                f"actor.incarnation: {actor.incarnation!r} of {actor.actor_id!r} was replaced by a newer process; "
                "stop this one, or give it an id of its own",
                reason="replaced",
            )
        if len(self._incarnations) > 2 * MAX_ACTORS:
            live = self._lease_of_actor.keys() | {actor.actor_id}
            self._incarnations = {key: value for key, value in self._incarnations.items() if key in live}

    def _find(self, lease_id: str) -> _Entry:
        entry = self._entries.get(lease_id)
        if entry is None:
            raise UnknownName(f"lease_id: {lease_id[:64]!r} has ended or never was; register again")
        return entry

    def _drop(self, entry: _Entry, change: Change) -> Actor:
        del self._entries[entry.lease_id]
        self._held.discard(entry.lease_id)
        self._lease_of_actor.pop(entry.actor.actor_id, None)
        self._tell(change, entry.actor)
        return entry.actor

    def _tell(self, change: Change, actor: Actor) -> None:
        logger.info("%s %s %s at %s", actor.kind, actor.actor_id, change, actor.address)
        for listener in tuple(self._listeners):
            listener(ActorEvent(change, actor))


def _check_kind(actor: Actor, present: _Entry | None) -> None:
    """A process may restart under its id, but nobody turns a living learner into a worker."""
    if present is not None and present.actor.kind is not actor.kind:
        raise InvalidRequest(
            f"actor.actor_id: {actor.actor_id!r} is a living {present.actor.kind} at {present.actor.address}, and a "
            f"{actor.kind} asks for it; take another id"
        )


def _face(actor: Actor) -> tuple[object, ...]:
    """What others rely on; the rest may change without an event."""
    return actor.incarnation, actor.kind, actor.address, actor.serves, actor.run_id
