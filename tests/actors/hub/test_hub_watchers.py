"""Changes handed to each watcher without waiting for slow ones."""

import asyncio

import pytest

from rlserve.actors.hub.registry import Registry
from rlserve.actors.hub.watchers import Watchers
from rlserve.errors import LimitExceeded
from rlserve.records import Actor, ActorKind
from tests.support.clock import ManualClock


def register(registry: Registry, count: int) -> None:
    for number in range(count):
        registry.register(
            Actor(actor_id=f"v-{number}", kind=ActorKind.VERIFIER, address="127.0.0.1:1", incarnation="i")
        )


@pytest.fixture
def registry() -> Registry:
    clock = ManualClock()
    return Registry(heartbeat_timeout_seconds=3.0, clock=clock, wall_clock=clock)


async def test_a_reader_that_falls_too_far_behind_is_cut_off_and_the_others_are_not(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlserve.actors.hub.watchers.MAX_PENDING", 10)
    watchers = Watchers(registry)
    with watchers.subscribe(None) as slow, watchers.subscribe(ActorKind.ROLLOUT) as other:
        register(registry, 12)
        with pytest.raises(LimitExceeded, match="more than 10 changes are unread"):
            _ = [event async for event in slow.events()]
        watchers.close()
        assert [event async for event in other.events()] == []


async def test_a_watch_after_the_stop_ends_at_once(registry: Registry) -> None:
    watchers = Watchers(registry)
    watchers.close()
    with watchers.subscribe(None) as watch:
        async with asyncio.timeout(1):
            assert [event async for event in watch.events()] == []


async def test_a_watcher_that_left_costs_nothing(registry: Registry) -> None:
    watchers = Watchers(registry)
    with watchers.subscribe(None):
        register(registry, 1)
    register(registry, 3)
    assert not watchers._queues
