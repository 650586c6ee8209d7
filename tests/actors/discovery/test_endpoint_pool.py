"""Calls that reach whoever is alive: real actor processes, killed, stopped and restarted under way."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.hub.main import hub_server
from rlserve.errors import DeadlineExceeded, InvalidRequest, Unavailable, VerifierFailed
from rlserve.records import ActorKind
from tests.support.processes.children import Child, child
from tests.support.processes.echo_actor import who

TIMEOUT = 1.0


class Site:
    """A hub, its client, and a pool of verifiers."""

    def __init__(self, address: str, client: HubClient, pool: EndpointPool) -> None:
        self.address = address
        self.client = client
        self.pool = pool

    async def ask(self, words: str = "who", *, serves: str = "math", seconds: float = 20.0, **options) -> str:
        """``"ID PID"`` of who answered."""
        answer = await self.pool.call(who, words.encode(), serves=serves, deadline_seconds=seconds, **options)
        return str(answer.decode())

    @asynccontextmanager
    async def actor(self, actor_id: str = "v-0", serves: str = "math") -> AsyncIterator[Child]:
        async with child("echo_actor.py", actor_id, self.address, serves) as process:
            await process.until("registered")
            yield process


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with (
        hub_server("127.0.0.1:0", TIMEOUT) as server,
        HubClient(server.address) as client,
        EndpointPool(client, ActorKind.VERIFIER) as pool,
    ):
        yield Site(server.address, client, pool)


async def test_a_call_waits_for_an_actor_that_serves_the_name(site: Site) -> None:
    waiting = asyncio.create_task(site.ask())
    async with site.actor("v-code", serves="code"):
        assert (await site.ask(serves="code")).startswith("v-code")
        assert not waiting.done()
        async with site.actor("v-math", serves="math"):
            assert (await waiting).startswith("v-math")


async def test_calls_are_spread_over_those_that_serve_the_name(site: Site) -> None:
    async with site.actor("v-0"), site.actor("v-1"):
        while len(site.pool.endpoints) < 2:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(site.ask("sleep 0.1") for _ in range(10)))
        counts = [sum(answer.startswith(name) for answer in answers) for name in ("v-0", "v-1")]
        assert counts == [5, 5]


async def test_a_killed_actor_is_replaced_by_another_under_way(site: Site) -> None:
    async with site.actor("v-0") as first:
        while not site.pool.endpoints:
            await asyncio.sleep(0.01)
        calls = [asyncio.create_task(site.ask("sleep 3")) for _ in range(5)]
        await asyncio.sleep(0.3)
        async with site.actor("v-1") as second:
            first.signal(signal.SIGKILL)
            started = time.monotonic()
            assert set(await asyncio.gather(*calls)) == {f"v-1 {second.pid}"}
            assert time.monotonic() - started < 1 + TIMEOUT + 2


async def test_a_call_survives_its_only_server_being_killed_and_restarted_on_another_port(site: Site) -> None:
    async with site.actor("v-0") as first:
        assert await site.ask() == f"v-0 {first.pid}"
        call = asyncio.create_task(site.ask("sleep 0.5"))
        await asyncio.sleep(0.2)
        first.signal(signal.SIGKILL)
        await first.exit_code()
    async with site.actor("v-0") as second:
        assert await call == f"v-0 {second.pid}"
        assert await site.ask() == f"v-0 {second.pid}"


async def test_a_stopped_process_loses_its_calls_to_another_when_its_registration_expires(site: Site) -> None:
    async with site.actor("v-0") as frozen, site.actor("v-1") as other:
        while len(site.pool.endpoints) < 2:
            await asyncio.sleep(0.01)
        frozen.signal(signal.SIGSTOP)
        started = time.monotonic()
        answers = await asyncio.gather(*(site.ask("sleep 0.05") for _ in range(4)))
        assert set(answers) == {f"v-1 {other.pid}"}
        assert time.monotonic() - started < 3 * TIMEOUT + 1
        frozen.signal(signal.SIGCONT)


async def test_an_actor_that_leaves_finishes_what_it_has(site: Site) -> None:
    async with site.actor("v-0") as first:
        call = asyncio.create_task(site.ask("sleep 1", seconds=5))
        await asyncio.sleep(0.4)
        first.signal(signal.SIGTERM)
        assert await call == f"v-0 {first.pid}"
        assert await first.exit_code() == 0


async def test_a_request_that_kills_every_server_is_given_up(site: Site) -> None:
    async with site.actor("v-0") as v0, site.actor("v-1") as v1:
        while len(site.pool.endpoints) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await site.ask("die", attempts=2)
        assert {await v0.exit_code(), await v1.exit_code()} == {-signal.SIGKILL}


async def test_a_servers_own_failure_is_tried_again_and_then_raised(site: Site) -> None:
    async with site.actor("v-0"):
        with pytest.raises(VerifierFailed, match="broke"):
            await site.ask("fail", attempts=3)
        calls = {a.status["calls"] async for a in statuses(site, at_least=3)}
        assert calls == {"3"}


async def statuses(site: Site, *, at_least: int):
    """Actors, once their heartbeat has told of so many calls."""
    while True:
        actors = await site.client.list_actors()
        if all(int(a.status.get("calls", 0)) >= at_least for a in actors):
            break
        await asyncio.sleep(0.05)
    for actor in actors:
        yield actor


async def test_a_slow_server_is_left_for_another_when_a_try_is_bounded(site: Site) -> None:
    async with site.actor("v-0"):
        with pytest.raises(DeadlineExceeded, match=r"v-0 at .*: no answer within 0\.2 s"):
            await site.ask("sleep 30", attempt_seconds=0.2, attempts=2)


async def test_a_callers_own_fault_is_raised_at_once(site: Site) -> None:
    async with site.actor("v-0"):
        with pytest.raises(InvalidRequest, match="word: is 'refuse'") as caught:
            await site.ask("refuse")
        assert caught.value.field == "word"
        calls = {a.status["calls"] async for a in statuses(site, at_least=1)}
        assert calls == {"1"}


async def test_the_deadline_says_who_was_wanted_and_who_is_there(site: Site) -> None:
    async with site.actor("v-0", serves="code"):
        while not site.pool.endpoints:
            await asyncio.sleep(0.01)
        with pytest.raises(
            DeadlineExceeded, match=r"verifier that serves 'math': no answer within 0\.5 s \(alive: v-0 at"
        ):
            await site.ask(seconds=0.5)
