"""Environments registered at run time, and what becomes of them when their actors go."""

from dataclasses import replace

import pytest
from clock import ManualClock

from rlserve.actors.hub.environments import EnvironmentBook
from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, UnknownName
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
    with pytest.raises(InvalidRequest, match=r"spec\.version: is '1\.9'.*'1\.10'"):
        desk.book.register(replace(spec(port=1), version="1.9"), old)
    assert desk.serving("math") == {"127.0.0.1:2"}


def test_two_servers_of_one_version_share_the_work(desk: Desk) -> None:
    desk.book.register(spec(port=1), desk.lease("environment-0", 1))
    desk.book.register(spec(port=2), desk.lease("environment-1", 2))
    assert desk.serving("math") == {"127.0.0.1:1", "127.0.0.1:2"}


def test_a_spec_at_another_address_than_its_actor_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.address"):
        desk.book.register(spec(port=5), desk.lease("environment-0", 1))
