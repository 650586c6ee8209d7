"""The hub's client against real hubs, killed and restarted ones included."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.errors import DeadlineExceeded, NotReady, Unavailable, UnknownName
from rlserve.records import Actor, ActorKind, Change, EnvironmentSpec, RunPhase, RunState
from tests.support.processes.children import Child, child

TIMEOUT = 0.6


def actor(actor_id: str = "v-0", incarnation: str = "first", serves: tuple[str, ...] = ("math",)) -> Actor:
    return Actor(
        actor_id=actor_id,
        kind=ActorKind.VERIFIER,
        address="127.0.0.1:1",
        incarnation=incarnation,
        serves=serves,
    )


@asynccontextmanager
async def hub() -> AsyncIterator[HubClient]:
    async with hub_server("127.0.0.1:0", TIMEOUT) as server, HubClient(server.address) as client:
        yield client


@asynccontextmanager
async def hub_process(address: str = "127.0.0.1:0") -> AsyncIterator[tuple[Child, str]]:
    async with child("hub_process.py", address, str(TIMEOUT)) as process:
        yield process, await process.line()


async def eventually(condition, seconds: float = 10.0) -> None:
    """Wait until an async condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_registered_stays_alive_over_many_timeouts_and_leaves_at_once() -> None:
    calls = 0

    def status() -> dict[str, str]:
        nonlocal calls
        calls += 1
        return {"calls": str(calls)}

    async with hub() as client:
        async with client.registered(actor(), status=status) as registration:
            await asyncio.sleep(3 * TIMEOUT)
            (listed,) = await client.list_actors(ActorKind.VERIFIER)
            assert int(listed.status["calls"]) >= 3
            assert registration.times_registered == 1
        assert await client.list_actors() == []


async def test_a_status_that_raises_does_not_end_the_registration() -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("no status")

    async with hub() as client, client.registered(actor(), status=broken) as registration:
        await asyncio.sleep(2 * TIMEOUT)
        assert registration.renewals >= 3
        assert len(await client.list_actors()) == 1


async def test_the_hub_killed_and_restarted_knows_everyone_again() -> None:
    async with hub_process() as (first, address), HubClient(address) as client:
        spec = EnvironmentSpec(name="math", address="", splits={"train": 10})
        async with (
            client.registered(actor("v-0"), environments=[spec]) as v0,
            client.registered(actor("v-1", serves=("code",))),
            aclosing(client.watch()) as watch,
        ):
            joined = [await anext(watch), await anext(watch)]
            assert {event.actor.actor_id for event in joined} == {"v-0", "v-1"}
            first.signal(signal.SIGKILL)
            await first.exit_code()
            with pytest.raises(Unavailable):
                await client.list_actors()
            async with hub_process(address) as (_, again):
                assert again == address
                await eventually(lambda: knows(client, 2), seconds=10)
                async with asyncio.timeout(10):  # the hub knows it before its answer has arrived
                    while v0.times_registered < 2:
                        await asyncio.sleep(0.02)
                assert [e.address for e in await client.list_environments()] == ["127.0.0.1:1"]
                # The watcher noticed nothing, for no actor really left; it still receives what is new.
                async with client.registered(actor("v-2")):
                    event = await asyncio.wait_for(anext(watch), 10)
                    assert (event.change, event.actor.actor_id) == (Change.JOINED, "v-2")


async def knows(client: HubClient, count: int) -> bool:
    try:
        return len(await client.list_actors()) == count
    except Unavailable:
        return False


async def test_an_actor_that_died_with_the_hub_is_reported_as_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlserve.actors.discovery.hub_client.RESYNC_SECONDS", 1.0)
    async with hub_process() as (first, address), HubClient(address) as client:
        await client.register(actor("gone"))
        async with client.registered(actor("here")), aclosing(client.watch()) as watch:
            assert {(await anext(watch)).actor.actor_id for _ in range(2)} == {"gone", "here"}
            first.signal(signal.SIGKILL)
            await first.exit_code()
            async with hub_process(address):
                event = await asyncio.wait_for(anext(watch), 10)
                assert (event.change, event.actor.actor_id) == (Change.LEFT, "gone")


async def test_a_replaced_process_is_told_to_stop() -> None:
    async with (
        hub() as client,
        client.registered(actor(incarnation="first")) as old,
        client.registered(actor(incarnation="second")) as new,
    ):
        await asyncio.wait_for(old.replaced.wait(), 5)
        await asyncio.sleep(TIMEOUT)
        assert not new.replaced.is_set()
        assert [a.incarnation for a in await client.list_actors()] == ["second"]


async def test_waiting_for_an_actor_ends_when_it_joins() -> None:
    async with hub() as client:
        waiting = asyncio.create_task(client.wait_for(ActorKind.VERIFIER, serves="code", deadline_seconds=10))
        async with client.registered(actor("v-0", serves=("math",))):
            await asyncio.sleep(0.1)
            assert not waiting.done()
            async with client.registered(actor("v-1", serves=("math", "code"))):
                assert (await waiting).actor_id == "v-1"


async def test_waiting_in_vain_names_what_is_missing_and_what_is_there() -> None:
    async with hub() as client, client.registered(actor("v-0", serves=("math",))):
        with pytest.raises(DeadlineExceeded, match=r"verifier: none that serves 'code' .*v-0 serves math"):
            await client.wait_for(ActorKind.VERIFIER, serves="code", deadline_seconds=0.3)
        with pytest.raises(DeadlineExceeded, match=r"teacher: none joined .*no one of this kind"):
            await client.wait_for(ActorKind.TEACHER, deadline_seconds=0.3)


async def test_registering_waits_for_a_hub_that_starts_later_but_not_for_ever() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    async with HubClient(address) as client:
        with pytest.raises(DeadlineExceeded, match=f"v-0: could not register within 0.4 s .*{address}"):
            async with client.registered(actor(), start_seconds=0.4):
                pass
        entering = asyncio.create_task(enter(client))
        await asyncio.sleep(0.3)
        async with hub_server(address, TIMEOUT):
            assert await asyncio.wait_for(entering, 10) == 1


async def enter(client: HubClient) -> int:
    async with client.registered(actor(), start_seconds=20):
        return len(await client.list_actors())


async def test_a_stopped_hub_process_exits_with_0() -> None:
    async with (
        hub_process() as (process, address),
        HubClient(address) as client,
        aclosing(client.watch()) as watch,
        client.registered(actor()),
    ):
        await anext(watch)
        started = time.monotonic()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
        assert time.monotonic() - started < 3


async def test_environments_and_run_state_go_both_ways() -> None:
    async with hub() as client:
        spec = EnvironmentSpec(name="math", address="127.0.0.1:9", splits={"train": 10, "test": 0}, verifier="math")
        await client.register_environment(spec)
        assert await client.list_environments() == [spec]
        await client.unregister_environment("math")
        with pytest.raises(UnknownName):
            await client.unregister_environment("math")
        with pytest.raises(NotReady):
            await client.get_run_state()
        await client.report_run_state(RunState(run_id="r", phase=RunPhase.TRAINING, step=3, metrics={"a": 0.5}))
        state = await client.get_run_state()
        assert (state.phase, state.step, state.metrics) == (RunPhase.TRAINING, 3, {"a": 0.5})


async def test_a_learner_that_lost_its_place_is_told_who_has_it() -> None:
    async with hub() as client:
        learner = replace(actor("learner"), kind=ActorKind.LEARNER)
        async with client.registered(learner) as registration:
            (held,) = await client.list_actors()
            assert held.actor_id == "learner"
            await client.deregister(registration.registration_id)
            await client.register(replace(learner, actor_id="other", incarnation="second"))
            async with asyncio.timeout(10):
                await registration.replaced.wait()
            assert "'other' at 127.0.0.1:1 is the learner of this hub" in registration.problem


async def test_what_was_unregistered_comes_back_by_its_servers_heartbeat_unless_kept_out() -> None:
    spec = EnvironmentSpec(name="math", splits={"train": 0}, address="")

    async def served() -> bool:
        return [s.name for s in await client.list_environments()] == ["math"]

    async with hub() as client:
        environment = replace(actor("environment-0", serves=()), kind=ActorKind.ENVIRONMENT)
        async with client.registered(environment, environments=[spec]):
            await client.unregister_environment("math")
            await eventually(served)
            await client.unregister_environment("math", keep_out=True)
            await asyncio.sleep(TIMEOUT)
            assert not await served()
