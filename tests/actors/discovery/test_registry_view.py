"""What a watcher receives across lost connections."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.actors.discovery.registry_view import RegistryView
from rlserve.records import Actor, ActorEvent, ActorKind, Change
from tests.support.clock import ManualClock

GRACE = 5.0


def actor(actor_id: str, incarnation: str = "1") -> Actor:
    return Actor(actor_id=actor_id, kind=ActorKind.VERIFIER, address="127.0.0.1:1", incarnation=incarnation)


def joined(actor_id: str, incarnation: str = "1") -> ActorEvent:
    return ActorEvent(Change.JOINED, actor(actor_id, incarnation))


class Watcher:
    """A view and the changes that its consumer saw."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.view = RegistryView(grace_seconds=GRACE, clock=self.clock)
        self.seen: list[ActorEvent] = []

    def stream(self, *events: ActorEvent) -> None:
        """A new connection that tells these, then that it is complete."""
        self.view.disconnected()
        self.receive(*events)
        self.view.synced()

    def receive(self, *events: ActorEvent) -> None:
        for event in events:
            self.seen += self.view.apply(event)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.seen += self.view.overdue()

    def changes(self) -> list[tuple[str, str, str]]:
        return [(e.change.value, e.actor.actor_id, e.actor.incarnation) for e in self.seen]


def test_a_hub_that_restarts_is_not_noticed_when_everyone_registers_again() -> None:
    watcher = Watcher()
    watcher.stream(joined("a"), joined("b"))
    watcher.stream()  # the new hub has no actor yet
    watcher.wait(1.0)
    watcher.receive(joined("b"), joined("a"))
    watcher.wait(GRACE)
    assert watcher.changes() == [("joined", "a", "1"), ("joined", "b", "1")]
    assert watcher.view.deadline is None


def test_who_does_not_come_back_within_the_grace_has_left() -> None:
    watcher = Watcher()
    watcher.stream(joined("a"), joined("b"))
    watcher.stream(joined("b"))
    watcher.wait(GRACE - 0.1)
    assert len(watcher.seen) == 2
    watcher.wait(0.1)
    assert watcher.changes()[2:] == [("left", "a", "1")]


def test_who_was_replaced_meanwhile_left_and_joined() -> None:
    watcher = Watcher()
    watcher.stream(joined("a", "1"))
    watcher.stream(joined("a", "2"))
    assert watcher.changes()[1:] == [("left", "a", "1"), ("joined", "a", "2")]


def test_the_grace_counts_from_the_connection_not_from_its_loss() -> None:
    watcher = Watcher()
    watcher.stream(joined("a"))
    watcher.view.disconnected()
    watcher.wait(100 * GRACE)
    assert len(watcher.seen) == 1


def test_an_actor_that_left_unseen_is_not_reported_as_leaving() -> None:
    watcher = Watcher()
    watcher.stream()
    watcher.receive(ActorEvent(Change.EXPIRED, actor("a")))
    assert watcher.seen == []


changes = st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", "3", None]), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(changes, max_size=20))
def test_the_consumer_ends_up_with_the_registry_however_often_the_stream_broke(
    history: list[tuple[str, str | None, bool]],
) -> None:
    """Each step sets an actor's incarnation (None: gone), seen by the stream or during an outage."""
    registry: dict[str, str] = {}
    watcher = Watcher()
    watcher.stream()
    for actor_id, incarnation, during_outage in history:
        before = registry.pop(actor_id, None)
        if incarnation is not None:
            registry[actor_id] = incarnation
        if during_outage:
            watcher.stream(*(joined(key, value) for key, value in registry.items()))
            continue
        if before is not None:
            watcher.receive(ActorEvent(Change.LEFT, actor(actor_id, before)))
        if incarnation is not None:
            watcher.receive(joined(actor_id, incarnation))
    watcher.wait(GRACE)
    held: dict[str, str] = {}
    for event in watcher.seen:
        if event.change is Change.JOINED:
            assert event.actor.actor_id not in held
            held[event.actor.actor_id] = event.actor.incarnation
        else:
            assert held.pop(event.actor.actor_id) == event.actor.incarnation
    assert held == registry
