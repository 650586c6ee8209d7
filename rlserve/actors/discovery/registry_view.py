"""A client's view of the registry across lost connections: a pure state machine.

When a stream breaks, all known actors stay in the view: most likely only the hub restarted, and its actors
re-register within a heartbeat or two. Actors that do not re-register within a grace period are reported as left.
"""

from collections.abc import Callable

from rlserve.records import Actor, ActorEvent, Change


class RegistryView:
    """Merges the events of successive streams into one sequence without repeats or gaps.

    Example::

        view = RegistryView(grace_seconds=5, clock=time.monotonic)
        view.apply(joined)      # [joined]: new
        view.synced()           # the stream has listed every present actor
        view.disconnected()     # the hub restarts; nothing is reported
        view.apply(joined)      # []: the same process again
    """

    def __init__(self, *, grace_seconds: float, clock: Callable[[], float]) -> None:
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._known: dict[str, Actor] = {}
        self._unconfirmed: set[str] = set()
        self._deadline: float | None = None
        self._connected = False

    @property
    def deadline(self) -> float | None:
        """When to call :meth:`overdue`; None while every known actor is confirmed."""
        return self._deadline

    @property
    def connected(self) -> bool:
        """True while a stream is open that has listed the whole registry."""
        return self._connected

    def disconnected(self) -> None:
        """The stream ended: the next one must list each known actor again."""
        self._connected = False
        self._unconfirmed = set(self._known)
        # The grace period begins with the next synced(): until then the hub itself may be down.
        self._deadline = None

    def synced(self) -> None:
        """The stream has listed the whole registry: the grace period of the missing actors begins."""
        self._connected = True
        self._deadline = self._clock() + self._grace_seconds if self._unconfirmed else None

    def apply(self, event: ActorEvent) -> list[ActorEvent]:
        """The changes that an event of the stream makes to the view."""
        actor = event.actor
        known = self._known.get(actor.actor_id)
        self._confirm(actor.actor_id)
        if event.change is not Change.JOINED:
            # Only of an actor that this view reported: its reader never gets an end without a beginning.
            return [event] if self._known.pop(actor.actor_id, None) else []
        self._known[actor.actor_id] = actor
        if known is None:
            return [event]
        # Not the whole actor: status and times change at each heartbeat.
        if (known.incarnation, known.address, known.serves) == (actor.incarnation, actor.address, actor.serves):
            return []
        # A pair, so that the reader closes what it holds of the old process before it opens the new one.
        return [ActorEvent(Change.LEFT, known), event]

    def overdue(self) -> list[ActorEvent]:
        """LEFT events for the actors that did not re-register within the grace period."""
        if self._deadline is None or self._clock() < self._deadline:
            return []
        gone = [self._known.pop(actor_id) for actor_id in sorted(self._unconfirmed)]
        self._unconfirmed.clear()
        self._deadline = None
        return [ActorEvent(Change.LEFT, actor) for actor in gone]

    def _confirm(self, actor_id: str) -> None:
        self._unconfirmed.discard(actor_id)
        if not self._unconfirmed:
            self._deadline = None
