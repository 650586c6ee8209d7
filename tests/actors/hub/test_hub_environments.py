"""Environments registered at run time, and what happens to them when their actors go."""

from dataclasses import replace

import pytest

from rlserve.actors.hub.environment_registry import MAX_STANDALONE_PER_HOST, EnvironmentRegistry
from rlserve.actors.hub.registry import Registry
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec
from tests.support.clock import ManualClock

TIMEOUT = 3.0


def spec(name: str = "math", port: int = 1) -> EnvironmentSpec:
    return EnvironmentSpec(name=name, address=f"127.0.0.1:{port}", splits={"train": 0})


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = Registry(heartbeat_timeout_seconds=TIMEOUT, clock=self.clock, wall_clock=self.clock)
        self.environments = EnvironmentRegistry(self.registry)

    def join(self, actor_id: str, port: int = 1) -> str:
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
    desk.environments.register(spec(), desk.join("environment-0"))
    desk.environments.register(spec("kept"), "")
    assert [s.name for s in desk.environments.all()] == ["kept", "math"]
    for _ in range(12):
        desk.clock.advance(0.25)
        desk.registry.tick()
    assert [s.name for s in desk.environments.all()] == ["kept"]


def test_the_latest_server_speaks_for_a_name_until_it_leaves(desk: Desk) -> None:
    first, second = desk.join("environment-0", 1), desk.join("environment-1", 2)
    desk.environments.register(spec(port=1), first)
    desk.environments.register(spec(port=2), second)
    assert [s.address for s in desk.environments.all()] == ["127.0.0.1:2"]
    desk.registry.deregister(second)
    assert [s.address for s in desk.environments.all()] == ["127.0.0.1:1"]


def test_registering_again_replaces(desk: Desk) -> None:
    desk.environments.register(spec(port=1), "")
    desk.environments.register(spec(port=2), "")
    assert [s.address for s in desk.environments.all()] == ["127.0.0.1:2"]


def test_a_registration_that_ended_brings_no_environment(desk: Desk) -> None:
    registration_id = desk.join("environment-0")
    desk.registry.deregister(registration_id)
    with pytest.raises(UnknownName, match="register the actor again"):
        desk.environments.register(spec(), registration_id)
    assert desk.environments.all() == []


def test_an_unknown_environment_is_answered_with_the_known_ones(desk: Desk) -> None:
    desk.environments.register(spec("math"), "")
    with pytest.raises(UnknownName, match=r"'maths' is not registered \(known: math\)"):
        desk.environments.unregister("maths")
    desk.environments.unregister("math")
    assert desk.environments.all() == []


def test_workers_find_a_standalone_spec_at_its_address(desk: Desk) -> None:
    desk.environments.register(spec(port=7), "")
    assert desk.serving("math") == {"127.0.0.1:7"}
    for _ in range(20):
        desk.clock.advance(0.25)
        desk.registry.tick()
    assert desk.serving("math") == {"127.0.0.1:7"}
    desk.environments.register(spec(port=8), "")
    assert desk.serving("math") == {"127.0.0.1:8"}
    desk.environments.unregister("math")
    assert desk.serving("math") == set()


def test_a_newer_version_takes_the_name_from_older_servers(desk: Desk) -> None:
    old, new = desk.join("environment-0", 1), desk.join("environment-1", 2)
    desk.environments.register(replace(spec(port=1), version="1.9"), old)
    desk.environments.register(replace(spec("other", port=1), version="1"), old)
    desk.environments.register(replace(spec(port=2), version="1.10"), new)
    assert desk.serving("math") == {"127.0.0.1:2"}
    assert desk.serving("other") == {"127.0.0.1:1"}
    desk.environments.register(replace(spec(port=1), version="1.9"), old)
    assert desk.serving("math") == {"127.0.0.1:2"}
    with pytest.raises(InvalidRequest, match=r"spec\.version: is '1\.9'.*'1\.10'"):
        desk.environments.register(replace(spec(port=3), version="1.9"), "")
    desk.registry.deregister(new)
    desk.environments.remove_expired()
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_two_servers_of_one_version_share_the_work(desk: Desk) -> None:
    desk.environments.register(spec(port=1), desk.join("environment-0", 1))
    desk.environments.register(spec(port=2), desk.join("environment-1", 2))
    assert desk.serving("math") == {"127.0.0.1:1", "127.0.0.1:2"}


def test_a_spec_at_another_address_than_its_actor_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=r"spec\.address"):
        desk.environments.register(spec(port=5), desk.join("environment-0", 1))


def test_a_standalone_spec_takes_no_name_from_a_live_server(desk: Desk) -> None:
    live = desk.join("environment-0", 1)
    desk.environments.register(spec(port=1), live)
    with pytest.raises(InvalidRequest, match=r"'math' is held by a live server at 127\.0\.0\.1:1") as error:
        desk.environments.register(replace(spec(port=9), version="9999"), "")
    assert error.value.reason == "held" and desk.serving("math") == {"127.0.0.1:1"}
    desk.registry.deregister(live)
    desk.environments.register(replace(spec(port=9), version="9999"), "")
    assert desk.serving("math") == {"127.0.0.1:9"}
    desk.environments.register(spec(port=2), desk.join("environment-1", 2))
    assert desk.serving("math") == {"127.0.0.1:2"}
    assert [s.address for s in desk.environments.all()] == ["127.0.0.1:2"]


def test_what_a_live_server_lost_comes_back_when_the_taker_goes_away(desk: Desk) -> None:
    desk.environments.register(spec(port=1), desk.join("environment-0", 1))
    fake = desk.join("fake", 9)
    desk.environments.register(replace(spec(port=9), version="9999"), fake)
    assert desk.serving("math") == {"127.0.0.1:9"}
    desk.registry.deregister(fake)
    desk.environments.remove_expired()
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_a_heartbeat_asserts_again_what_was_unregistered_unless_it_is_kept_out(desk: Desk) -> None:
    registration_id = desk.join("environment-0", 1)
    desk.environments.register(spec(port=1), registration_id)
    desk.environments.unregister("math")
    assert desk.serving("math") == set() and desk.environments.all() == []
    desk.environments.restore(registration_id)
    assert desk.serving("math") == {"127.0.0.1:1"}
    desk.environments.unregister("math", keep_out=True)
    desk.environments.restore(registration_id)
    desk.registry.deregister(registration_id)
    registration_id = desk.join("environment-0", 1)
    desk.environments.register(spec(port=1), registration_id)
    assert desk.serving("math") == set() and desk.environments.all() == []
    desk.environments.register(spec(port=1), registration_id, again=True)
    assert desk.serving("math") == {"127.0.0.1:1"}


def test_standalone_specs_lock_nobody_out(desk: Desk) -> None:
    refused = 0
    for number in range(4200):
        try:
            desk.environments.register(spec(f"fake{number}", port=9), "", host="10.0.0.9")
        except LimitExceeded as error:
            refused += 1
            message = str(error)
    assert refused == 4200 - MAX_STANDALONE_PER_HOST
    assert "64 that stay until unregistered came from 10.0.0.9" in message
    desk.environments.register(spec("other", port=3), "", host="10.0.0.8")
    desk.environments.register(spec("math", port=1), desk.join("environment-0", 1), host="10.0.0.9")
    assert desk.serving("math") == {"127.0.0.1:1"} and desk.serving("other") == {"127.0.0.1:3"}
    desk.environments.register(spec("fake0", port=10), "", host="10.0.0.9")


def test_any_version_has_a_place(desk: Desk) -> None:
    for version in ("\u00b2", "1.", "..", "\u0661", "1-rc"):
        desk.environments.register(replace(spec(port=1), version=version), desk.join(f"e{version.encode().hex()}", 1))
