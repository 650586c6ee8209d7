"""Announcements of starting actors, through a real hub."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.starting import DOING, Starting, announced, name_of
from rlserve.actors.hub.main import hub_server
from rlserve.actors.process import run_actor
from rlserve.records import Actor, ActorKind

ACTOR = Actor(actor_id="rollout-0", kind=ActorKind.ROLLOUT, address="127.0.0.1:1", incarnation="first")


async def until(met: object) -> None:
    assert callable(met)
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def test_a_start_is_announced_until_it_ends() -> None:
    starting, doing = Starting(), ["loads"]
    async with hub_server("127.0.0.1:0", 0.3) as server, HubClient(server.address) as hub:
        following = asyncio.create_task(starting.follow(hub))
        async with announced(server.address, ACTOR, lambda: doing[-1]):
            await until(starting.names)
            assert set(starting.names()) == {"rollout-0"}
            doing.append("compiles")
            (entry,) = await hub.list_actors(ActorKind.STARTING)
            async with asyncio.timeout(30):
                while entry.status.get(DOING) != "compiles":
                    await asyncio.sleep(0.05)
                    (entry,) = await hub.list_actors(ActorKind.STARTING)
            assert name_of(entry) == "rollout-0"
            assert not await hub.list_actors(ActorKind.ROLLOUT)  # what does not serve is dialled by no actor
        await until(lambda: not starting.names())
        following.cancel()


async def test_an_actor_is_listed_as_starting_until_it_serves() -> None:
    go_on, seen = asyncio.Event(), asyncio.Event()
    async with hub_server("127.0.0.1:0", 1.0) as server, HubClient(server.address) as hub:

        @asynccontextmanager
        async def serve() -> AsyncIterator[str]:
            await go_on.wait()
            yield "127.0.0.1:7"

        async def work() -> None:
            seen.set()

        running = asyncio.create_task(
            run_actor(
                kind=ActorKind.ROLLOUT,
                actor_id="rollout-0",
                hub_address=server.address,
                serve=serve(),
                work=work,
                doing=lambda: "loads",
                stop_seconds=86400.0,  # the deadline of its stop would end this process, in which other tests run
            )
        )
        async with asyncio.timeout(30):
            while not await hub.list_actors(ActorKind.STARTING):
                await asyncio.sleep(0.01)
            go_on.set()
            assert await running == 0
        assert seen.is_set() and not await hub.list_actors()


async def test_without_a_hub_a_start_goes_on() -> None:
    async with announced("", ACTOR, str):
        pass
    async with announced("127.0.0.1:1", ACTOR, str):  # nothing listens there
        await asyncio.sleep(0.05)
