"""Leases as a state machine, on a clock that the test moves."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from rlserve.actors.hub.registry import MAX_INCARNATIONS, Registry
from rlserve.errors import InvalidRequest, LimitExceeded, NotReady, UnknownName
from rlserve.records import Actor, ActorEvent, ActorKind, Change
from tests.support.clock import ManualClock

TIMEOUT = 3.0


def actor(actor_id: str = "v-0", incarnation: str = "first", **options) -> Actor:
    options = {"kind": ActorKind.VERIFIER, "address": "127.0.0.1:1", "serves": ("math",)} | options
    return Actor(actor_id=actor_id, incarnation=incarnation, **options)


class Desk:
    """A registry, its clock and what it told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = Registry(heartbeat_timeout_seconds=TIMEOUT, clock=self.clock, wall_clock=self.clock)
        self.events: list[ActorEvent] = []
        self.registry.listen(self.events.append)

    def pass_time(self, seconds: float) -> list[Actor]:
        """Advance in the small steps of a healthy hub."""
        ended = []
        steps = max(round(seconds / 0.25), 1)
        for _ in range(steps):
            self.clock.advance(seconds / steps)
            ended += self.registry.tick()
        return ended

    def told(self) -> list[tuple[str, str]]:
        return [(event.change.value, event.actor.incarnation) for event in self.events]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_actor_that_falls_silent_expires_after_its_timeout_and_not_before(desk: Desk) -> None:
    desk.registry.register(actor())
    assert desk.pass_time(2.75) == []
    assert [gone.actor_id for gone in desk.pass_time(0.25)] == ["v-0"]
    assert desk.registry.actors() == []
    assert desk.told() == [("joined", "first"), ("expired", "first")]


def test_an_actor_that_renews_stays_and_shows_its_status(desk: Desk) -> None:
    registration_id = desk.registry.register(actor())
    for _ in range(20):
        assert desk.pass_time(TIMEOUT / 2) == []
        desk.registry.renew(registration_id, {"queue": "3"})
    (listed,) = desk.registry.actors()
    assert (listed.status, listed.last_seen_unix_seconds) == ({"queue": "3"}, desk.clock.now)


def test_a_registration_that_ended_cannot_be_renewed_or_left(desk: Desk) -> None:
    registration_id = desk.registry.register(actor())
    desk.pass_time(TIMEOUT)
    for use in (lambda: desk.registry.renew(registration_id, {}), lambda: desk.registry.deregister(registration_id)):
        with pytest.raises(UnknownName, match="register again"):
            use()


def test_leaving_is_told_at_once(desk: Desk) -> None:
    desk.registry.deregister(desk.registry.register(actor()))
    assert desk.told() == [("joined", "first"), ("left", "first")]


def test_the_same_process_may_register_again_without_anyone_noticing(desk: Desk) -> None:
    old = desk.registry.register(actor())
    new = desk.registry.register(actor())
    assert desk.told() == [("joined", "first")]
    assert not desk.registry.is_live(old)
    assert desk.registry.is_live(new)


def test_a_process_that_moved_is_told_as_left_and_joined(desk: Desk) -> None:
    desk.registry.register(actor())
    desk.registry.register(actor(address="127.0.0.1:2"))
    assert [event.actor.address for event in desk.events] == ["127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:2"]
    assert desk.registry.actors()[0].address == "127.0.0.1:2"


def test_a_restarted_process_takes_the_place_of_the_old_one(desk: Desk) -> None:
    old = desk.registry.register(actor(incarnation="first"))
    desk.registry.register(actor(incarnation="second"))
    assert desk.told() == [("joined", "first"), ("left", "first"), ("joined", "second")]
    with pytest.raises(UnknownName):
        desk.registry.renew(old, {})


@pytest.mark.parametrize("silence", [0.0, 2 * TIMEOUT], ids=["at once", "after its heartbeat timeout"])
def test_a_replaced_process_cannot_come_back_and_evict_its_successor(desk: Desk, silence: float) -> None:
    desk.registry.register(actor(incarnation="first"))
    desk.pass_time(silence or 0.25)
    desk.registry.register(actor(incarnation="second"))
    with pytest.raises(InvalidRequest, match="replaced by a newer process") as caught:
        desk.registry.register(actor(incarnation="first"))
    assert (caught.value.field, caught.value.reason) == ("actor.incarnation", "replaced")
    assert [live.incarnation for live in desk.registry.actors()] == ["second"]


def test_a_hub_that_stood_still_does_not_blame_its_actors(desk: Desk) -> None:
    registration_id = desk.registry.register(actor())
    desk.pass_time(1.0)
    desk.clock.advance(60.0)  # no tick: the process itself was stopped
    assert desk.registry.tick() == []
    desk.registry.renew(registration_id, {})
    assert len(desk.pass_time(TIMEOUT)) == 1


def test_kinds_are_told_apart(desk: Desk) -> None:
    desk.registry.register(actor())
    desk.registry.register(actor("rollout-0", kind=ActorKind.ROLLOUT))
    assert [a.actor_id for a in desk.registry.actors(ActorKind.ROLLOUT)] == ["rollout-0"]
    assert len(desk.registry.actors()) == 2


def test_the_registry_does_not_grow_without_bound(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlserve.actors.hub.registry.MAX_ACTORS", 4)
    for number in range(4):
        desk.registry.register(actor(f"v-{number}"))
    with pytest.raises(LimitExceeded, match="actors: 4 are registered"):
        desk.registry.register(actor("v-4"))
    for number in range(100):
        desk.registry.register(actor("v-0", f"restart-{number}"))
        desk.registry.deregister(desk.registry.register(actor("v-1", f"restart-{number}")))
        desk.registry.deregister(desk.registry.register(actor(f"passing-{number}")))
    assert len(desk.registry._incarnations) <= 2 * 4 + 1
    assert len(desk.registry._incarnations["v-0"]) == MAX_INCARNATIONS


class RegistryMachine(RuleBasedStateMachine):
    """Whatever happens, the sent changes add up to the registry, and no silent actor stays in it."""

    registrations = Bundle("registrations")

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.last_heard: dict[str, float] = {}

    @rule(
        target=registrations,
        actor_id=st.sampled_from("abc"),
        incarnation=st.sampled_from("123"),
        port=st.integers(1, 2),
    )
    def register(self, actor_id: str, incarnation: str, port: int) -> str:
        try:
            registration_id = self.desk.registry.register(actor(actor_id, incarnation, address=f"127.0.0.1:{port}"))
        except InvalidRequest:
            return ""
        self.last_heard[registration_id] = self.desk.clock.now
        return registration_id

    @rule(registration_id=registrations)
    def renew(self, registration_id: str) -> None:
        try:
            self.desk.registry.renew(registration_id, {})
        except UnknownName:
            return
        self.last_heard[registration_id] = self.desk.clock.now

    @rule(registration_id=registrations)
    def deregister(self, registration_id: str) -> None:
        live = self.desk.registry.is_live(registration_id)
        try:
            self.desk.registry.deregister(registration_id)
        except UnknownName:
            assert not live

    @rule(seconds=st.floats(0.01, 2 * TIMEOUT))
    def pass_time(self, seconds: float) -> None:
        self.desk.pass_time(seconds)

    @invariant()
    def told_changes_add_up_to_the_registry(self) -> None:
        replayed: dict[str, Actor] = {}
        for event in self.desk.events:
            if event.change is Change.JOINED:
                assert event.actor.actor_id not in replayed
                replayed[event.actor.actor_id] = event.actor
            else:
                assert replayed.pop(event.actor.actor_id).incarnation == event.actor.incarnation
        live = {a.actor_id: (a.incarnation, a.address) for a in self.desk.registry.actors()}
        assert live == {key: (a.incarnation, a.address) for key, a in replayed.items()}

    @invariant()
    def registrations_live_exactly_as_long_as_they_are_renewed(self) -> None:
        silent = {
            registration_id
            for registration_id, heard in self.last_heard.items()
            if self.desk.clock.now - heard >= TIMEOUT
        }
        assert not [registration_id for registration_id in silent if self.desk.registry.is_live(registration_id)]


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("actor_id", ["learner", "another"])
def test_a_learner_that_lives_is_not_replaced_and_one_that_is_gone_is(desk: Desk, actor_id: str) -> None:
    registration_id = desk.registry.register(actor("learner", kind=ActorKind.LEARNER))
    with pytest.raises(NotReady, match=r"'learner' at 127\.0\.0\.1:1 is the learner of this hub.*wait 3 s"):
        desk.registry.register(actor(actor_id, "second", kind=ActorKind.LEARNER))
    desk.registry.renew(registration_id, {})
    assert desk.registry.register(actor("learner", kind=ActorKind.LEARNER)) != registration_id
    desk.pass_time(TIMEOUT)
    desk.registry.register(actor(actor_id, "second", kind=ActorKind.LEARNER))
    assert [a.incarnation for a in desk.registry.actors()] == ["second"]


@pytest.mark.parametrize("kind", [kind for kind in ActorKind if kind is not ActorKind.LEARNER])
def test_nobody_turns_a_living_learner_into_another_kind_of_actor(desk: Desk, kind: ActorKind) -> None:
    registration_id = desk.registry.register(actor("learner", kind=ActorKind.LEARNER))
    with pytest.raises(
        InvalidRequest, match=rf"'learner' is a live learner at 127\.0\.0\.1:1, and cannot become a {kind}"
    ):
        desk.registry.register(actor("learner", "second", kind=kind))
    desk.registry.renew(registration_id, {})
    assert desk.told() == [("joined", "first")]
    desk.registry.register(actor("learner", "first", kind=ActorKind.LEARNER))  # its own incarnation is the newest still
    desk.pass_time(TIMEOUT)
    desk.registry.register(actor("learner", "third", kind=kind))


def test_nobody_takes_the_place_of_a_standalone_environment(desk: Desk) -> None:
    placeholder = actor("environment/math", kind=ActorKind.ENVIRONMENT)
    held = desk.registry.add_permanent(placeholder)
    with pytest.raises(InvalidRequest, match="'environment/math' is the placeholder of a standalone environment"):
        desk.registry.register(actor("environment/math", "second", kind=ActorKind.ENVIRONMENT))
    assert desk.registry.actor_of(held).incarnation == "first"
    assert desk.registry.add_permanent(actor("environment/math", "moved", kind=ActorKind.ENVIRONMENT)) != held
