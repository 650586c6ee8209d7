"""Live actors: a pure state machine without sockets or tasks; the clock is passed in.

A registration expires ``heartbeat_timeout_seconds`` after its last heartbeat, at the next :meth:`Registry.tick`.
Listeners are called for every change, in the order in which it happens.
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
"""Bounds memory against a faulty client; any value far above the size of a real run will do."""
MAX_INCARNATIONS = 16
"""Past processes remembered per actor id, to reject one that was suspended and resumes after its successor started."""


@dataclass(slots=True)
class _Entry:
    actor: Actor
    registration_id: str
    deadline: float
    """Monotonic seconds at which the registration expires."""


class Registry:
    """Actors by registration. One actor id has at most one live process; a newer process replaces an older one.

    Example::

        registry = Registry(heartbeat_timeout_seconds=3, clock=time.monotonic, wall_clock=time.time)
        registration_id = registry.register(actor)
        registry.renew(registration_id, {"queued": "2"})    # every second
        registry.tick()                                     # [] ; [actor] once 3 s passed without renew
    """

    def __init__(self, *, heartbeat_timeout_seconds: float, clock: Clock, wall_clock: Clock) -> None:
        """``clock`` is monotonic and decides expiry; ``wall_clock`` only stamps records for display."""
        self.heartbeat_timeout_seconds = heartbeat_timeout_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._entries: dict[str, _Entry] = {}
        self._id_of_actor: dict[str, str] = {}
        # Processes seen under each actor id, oldest first.
        self._incarnations: dict[str, deque[str]] = {}
        self._permanent: set[str] = set()
        """Registrations that never expire (placeholders of environments); they do not count to MAX_ACTORS."""
        self._listeners: list[Listener] = []
        self._last_tick = clock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at every change from now on; call the result to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def register(self, actor: Actor) -> str:
        """Register or re-register an actor; returns the registration id.

        The same incarnation just gets a new registration id (it lost its own). A new incarnation replaces the old
        one, which may not return: a process that was suspended must not evict its successor. A live learner is never
        replaced, nor an actor of another kind. Raises InvalidRequest for a replaced incarnation and for an id that
        a live actor of another kind has, NotReady for a second learner, LimitExceeded when the registry is full.
        """
        present = self._entries.get(self._id_of_actor.get(actor.actor_id, ""))
        if present is not None and present.registration_id in self._permanent:
            raise InvalidRequest(
                f"actor.actor_id: {actor.actor_id!r} is the placeholder of a standalone environment; take another id"
            )
        return self._add(actor, present)

    def _add(self, actor: Actor, present: _Entry | None) -> str:
        """Register or re-register; ``present`` is the live entry under the actor's id."""
        self._check_learner(actor)
        _check_kind(actor, present)
        self._note_incarnation(actor)
        if present is None and len(self._entries) - len(self._permanent) >= MAX_ACTORS:
            raise LimitExceeded(f"actors: {MAX_ACTORS} are registered, which is the limit")
        now = self._wall_clock()
        entry = _Entry(
            actor=replace(actor, registered_unix_seconds=now, last_seen_unix_seconds=now),
            registration_id=uuid.uuid4().hex,
            deadline=self._clock() + self.heartbeat_timeout_seconds,
        )
        self._insert(entry, present)
        return entry.registration_id

    def add_permanent(self, actor: Actor) -> str:
        """Register an actor that never expires, because it sends no heartbeats; returns the registration id."""
        present = self._entries.get(self._id_of_actor.get(actor.actor_id, ""))
        registration_id = self._add(actor, present)
        self._entries[registration_id].deadline = math.inf
        self._permanent.add(registration_id)
        return registration_id

    def set_serves(self, registration_id: str, serves: Collection[str]) -> None:
        """Change the names that an actor serves. Raises UnknownName if its registration has ended."""
        entry = self._find(registration_id)
        if tuple(serves) == entry.actor.serves:
            return
        # There is no event for changed names: to watchers the actor leaves and joins.
        self._notify(Change.LEFT, entry.actor)
        entry.actor = replace(entry.actor, serves=tuple(serves))
        self._notify(Change.JOINED, entry.actor)

    def actor_of(self, registration_id: str) -> Actor:
        """The actor of a live registration. Raises UnknownName."""
        return self._find(registration_id).actor

    def renew(self, registration_id: str, status: Mapping[str, str]) -> None:
        """Restart the timeout of a registration. Raises UnknownName if it has ended: register again."""
        entry = self._find(registration_id)
        entry.deadline = self._clock() + self.heartbeat_timeout_seconds
        entry.actor = replace(entry.actor, status=dict(status), last_seen_unix_seconds=self._wall_clock())

    def deregister(self, registration_id: str) -> Actor:
        """End a registration now. Raises UnknownName if it has already ended."""
        return self._drop(self._find(registration_id), Change.LEFT)

    def tick(self) -> list[Actor]:
        """Expire the actors that sent no heartbeat in time and return them. Call it a few times per timeout.

        If the calls themselves stopped for more than half a timeout, this process was suspended (a debugger, a
        sleeping machine) and could not receive heartbeats: all registrations are then extended by that time.
        """
        now = self._clock()
        pause = now - self._last_tick
        self._last_tick = now
        if pause > self.heartbeat_timeout_seconds / 2:
            logger.warning("hub was suspended for %.1f s; registrations are extended by as much", pause)
            for entry in self._entries.values():
                entry.deadline += pause
        # Collected first: _drop changes the dictionary.
        ended = [entry for entry in self._entries.values() if entry.deadline <= now]
        return [self._drop(entry, Change.EXPIRED) for entry in ended]

    def actors(self, kind: ActorKind | None = None) -> list[Actor]:
        """Live actors of a kind (None: all), in the order of registration."""
        return [e.actor for e in self._entries.values() if kind is None or e.actor.kind is kind]

    def is_live(self, registration_id: str) -> bool:
        """True until the registration ends."""
        return registration_id in self._entries

    def _insert(self, entry: _Entry, present: _Entry | None) -> None:
        # The same process under a new registration is no change to a watcher.
        if present is not None and _visible(present.actor) == _visible(entry.actor):
            del self._entries[present.registration_id]
            self._permanent.discard(present.registration_id)
        elif present is not None:
            self._drop(present, Change.LEFT)
            present = None
        self._entries[entry.registration_id] = entry
        self._id_of_actor[entry.actor.actor_id] = entry.registration_id
        if present is None:
            self._notify(Change.JOINED, entry.actor)

    def _check_learner(self, actor: Actor) -> None:
        """A run has one learner: workers send their groups to the actor registered as the learner."""
        if actor.kind is not ActorKind.LEARNER:
            return
        for entry in self._entries.values():
            # Its own incarnation may register again, after the hub lost its registration.
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
        # Ids that are used once must not fill the memory. Those of live actors keep their past.
        if len(self._incarnations) > 2 * MAX_ACTORS:
            live = self._id_of_actor.keys() | {actor.actor_id}
            self._incarnations = {key: value for key, value in self._incarnations.items() if key in live}

    def _find(self, registration_id: str) -> _Entry:
        entry = self._entries.get(registration_id)
        if entry is None:
            raise UnknownName(f"lease_id: {registration_id[:64]!r} has ended or never was; register again")
        return entry

    def _drop(self, entry: _Entry, change: Change) -> Actor:
        del self._entries[entry.registration_id]
        self._permanent.discard(entry.registration_id)
        self._id_of_actor.pop(entry.actor.actor_id, None)
        self._notify(change, entry.actor)
        return entry.actor

    def _notify(self, change: Change, actor: Actor) -> None:
        logger.info("%s %s %s at %s", actor.kind, actor.actor_id, change, actor.address)
        # A copy: a listener may end its own subscription.
        for listener in tuple(self._listeners):
            listener(ActorEvent(change, actor))


def _check_kind(actor: Actor, present: _Entry | None) -> None:
    """A process may restart under its id, but only as the same kind of actor while the old one is alive."""
    if present is not None and present.actor.kind is not actor.kind:
        raise InvalidRequest(
            f"actor.actor_id: {actor.actor_id!r} is a live {present.actor.kind} at {present.actor.address}, and cannot "
            f"become a {actor.kind}; take another id"
        )


def _visible(actor: Actor) -> tuple[object, ...]:
    """The fields that watchers rely on; other fields may change without an event."""
    return actor.incarnation, actor.kind, actor.address, actor.serves, actor.run_id
