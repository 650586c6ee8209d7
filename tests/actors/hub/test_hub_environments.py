"""Environments registered at run time, and what becomes of them when their actors go."""

from dataclasses import replace

import pytest
from clock import ManualClock

from rlserve.actors.hub.environments import MAX_LEASELESS_OF_ONE_HOST, EnvironmentBook
from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec

LEASE = 3.0


def spec(name: str = "math", port: int = 1) -> EnvironmentSpec:
    return EnvironmentSpec(name=name, address=f"127.0.0.1:{port}", splits={"train": 0})


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = Registry(lease_seconds=LEASE, clock=self.clock, wall_clock=self.clock)
        self.book = EnvironmentBook(self.registry)

    def lease(self, actor_id: str, port: int = 1) -> str:
        address = f"127.0.0.1:{port}"
        return self.registry.register(
            Actor(actor_id=actor_id, kind=ActorKind.ENVIRONMENT, address=address, incarnation=actor_id)
        )

    def serving(self, name: str) -> set[str]:
        """Addresses at which a worker finds an environment."""
        return {actor.address for actor in self.registry.actors(ActorKind.ENVIRONMENT) if name in actor.serves}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_environment_leaves_with_its_actor(desk: Desk) -> None:
    desk.book.register(spec(), desk.lease("environment-0"))
    desk.book.register(spec("kept"), "")
    assert [s.name for s in desk.book.all()] == ["kept", "math"]
    for _ in range(12):
        desk.clock.advance(0.25)
        desk.registry.tick()
    assert [s.name for s in desk.book.all()] == ["kept"]


def test_the_latest_server_speaks_for_a_name_until_it_leaves(desk: Desk) -> None:
    first, second = desk.lease("environment-0", 1), desk.lease("environment-1", 2)
    desk.book.register(spec(port=1), first)
    desk.book.register(spec(port=2), second)
    assert [s.address for s in desk.book.all()] == ["127.0.0.1:2"]
    desk.registry.deregister(second)
    assert [s.address for s in desk.book.all()] == ["127.0.0.1:1"]


def test_registering_again_replaces(desk: Desk) -> None:
    desk.book.register(spec(port=1), "")
    desk.book.register(spec(port=2), "")
    assert [s.address for s in desk.book.all()] == ["127.0.0.1:2"]


def test_a_lease_that_ended_brings_no_environment(desk: Desk) -> None:
    lease = desk.lease("environment-0")
    desk.registry.deregister(lease)
    with pytest.raises(UnknownName, match="register the actor again"):
        desk.book.register(spec(), lease)
    assert desk.book.all() == []


def test_an_unknown_environment_is_answered_with_the_known_ones(desk: Desk) -> None:
    desk.book.register(spec("math"), "")
    with pytest.raises(UnknownName, match=r"'maths' is not registered \(known: math\)"):
        desk.book.unregister("maths")
    desk.book.unregister("math")
    assert desk.book.all() == []


def test_workers_find_a_spec_without_a_lease_at_its_address(desk: Desk) -> None:
    desk.book.register(spec(port=7), "")
    assert desk.serving("math") == {"127.0.0.1:7"}
    for _ in range(20):
        desk.clock.advance(0.25)
        desk.registry.tick()
    assert desk.serving("math") == {"127.0.0.1:7"}
    desk.book.register(spec(port=8), "")
    assert desk.serving("math") == {"127.0.0.1:8"}
    desk.book.unregister("math")
    assert desk.serving("math") == set()


def test_a_newer_version_takes_the_name_from_older_servers(desk: Desk) -> None:
    old, new = desk.lease("environment-0", 1), desk.lease("environment-1", 2)
    desk.book.register(replace(spec(port=1), version="1.9"), old)
    desk.book.register(replace(spec("other", port=1), version="1"), old)
    desk.book.register(replace(spec(port=2), version="1.10"), new)
    assert desk.serving("math") == {"127.0.0.1:2"}
    assert desk.serving("other") == {"127.0.0.1:1"}
    desk.book.register(replace(spec(port=1), version="1.9"), old)
    assert desk.serving("math") == {"127.0.0.1:2"}
    with pytest.raises(InvalidRequest, match=r"spec\.version: is '1\.9'.*'1\.10'"):
        desk.book.register(replace(spec(port=3), version="1.9"), "")
    desk.registry.deregister(new)
    desk.book.sweep()
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_two_servers_of_one_version_share_the_work(desk: Desk) -> None:
    desk.book.register(spec(port=1), desk.lease("environment-0", 1))
    desk.book.register(spec(port=2), desk.lease("environment-1", 2))
    assert desk.serving("math") == {"127.0.0.1:1", "127.0.0.1:2"}


def test_a_spec_at_another_address_than_its_actor_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.address"):
        desk.book.register(spec(port=5), desk.lease("environment-0", 1))


def test_a_spec_without_a_lease_takes_no_name_from_a_live_server(desk: Desk) -> None:
    live = desk.lease("environment-0", 1)
    desk.book.register(spec(port=1), live)
    with pytest.raises(InvalidRequest, match=r"'math' is held by a live server at 127\.0\.0\.1:1") as error:
        desk.book.register(replace(spec(port=9), version="9999"), "")
    assert error.value.reason == "held" and desk.serving("math") == {"127.0.0.1:1"}
    desk.registry.deregister(live)
    desk.book.register(replace(spec(port=9), version="9999"), "")
    assert desk.serving("math") == {"127.0.0.1:9"}
    desk.book.register(spec(port=2), desk.lease("environment-1", 2))
    assert desk.serving("math") == {"127.0.0.1:2"}
    assert [s.address for s in desk.book.all()] == ["127.0.0.1:2"]


def test_what_a_live_server_lost_comes_back_when_the_taker_goes_away(desk: Desk) -> None:
    desk.book.register(spec(port=1), desk.lease("environment-0", 1))
    fake = desk.lease("fake", 9)
    desk.book.register(replace(spec(port=9), version="9999"), fake)
    assert desk.serving("math") == {"127.0.0.1:9"}
    desk.registry.deregister(fake)
    desk.book.sweep()
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_a_heartbeat_asserts_again_what_was_unregistered_unless_it_is_kept_out(desk: Desk) -> None:
    lease = desk.lease("environment-0", 1)
    desk.book.register(spec(port=1), lease)
    desk.book.unregister("math")
    assert desk.serving("math") == set() and desk.book.all() == []
    desk.book.assert_again(lease)
    assert desk.serving("math") == {"127.0.0.1:1"}
    desk.book.unregister("math", keep_out=True)
    desk.book.assert_again(lease)
    desk.registry.deregister(lease)
    lease = desk.lease("environment-0", 1)
    desk.book.register(spec(port=1), lease)
    assert desk.serving("math") == set() and desk.book.all() == []
    desk.book.register(spec(port=1), lease, again=True)
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_specs_without_a_lease_lock_nobody_out(desk: Desk) -> None:
    refused = 0
    for number in range(4200):
        try:
            desk.book.register(spec(f"fake{number}", port=9), "", host="10.0.0.9")
        except LimitExceeded as error:
            refused += 1
            message = str(error)
    assert refused == 4200 - MAX_LEASELESS_OF_ONE_HOST
    assert "64 that stay until unregistered came from 10.0.0.9" in message
    desk.book.register(spec("other", port=3), "", host="10.0.0.8")
    desk.book.register(spec("math", port=1), desk.lease("environment-0", 1), host="10.0.0.9")
    assert desk.serving("math") == {"127.0.0.1:1"} and desk.serving("other") == {"127.0.0.1:3"}
    desk.book.register(spec("fake0", port=10), "", host="10.0.0.9")


def test_any_version_has_a_place(desk: Desk) -> None:
    for version in ("\u00b2", "1.", "..", "\u0661", "1-rc"):
        desk.book.register(replace(spec(port=1), version=version), desk.lease(f"e{version.encode().hex()}", 1))
