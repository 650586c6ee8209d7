"""Environments registered and lost while a run draws tasks: a real hub, a real inbox."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.actors.learner.ingest.environments import EnvironmentFollower
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.observability.events import EventLog
from rlserve.records import Actor, ActorKind, EnvironmentSpec, Sampling
from tests.support.intake import lease_out, make_inbox

LEASE_SECONDS = 2.0


@asynccontextmanager
async def followed(tmp_path: Path) -> AsyncIterator[tuple[Inbox, HubClient, EnvironmentFollower]]:
    """An inbox whose mixture follows a hub."""
    inbox = make_inbox(tmp_path / "store.db")
    async with hub_server("127.0.0.1:0", LEASE_SECONDS) as server, HubClient(server.address) as hub:
        follower = EnvironmentFollower(hub, inbox, inbox.mixture, EventLog(tmp_path / "events.jsonl"))
        following = asyncio.create_task(follower.follow())
        yield inbox, hub, follower
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def until(true_of: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true_of():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def guest(weight: float = 1.0) -> EnvironmentSpec:
    splits = {"train": 0, "test": 0}
    sampling = Sampling(temperature=0.5, stop=("</answer>",))
    return EnvironmentSpec(name="guest", address="127.0.0.1:9", splits=splits, weight=weight, sampling=sampling)


def drawn(inbox: Inbox) -> set[str]:
    return {entry.environment for entry in inbox.mixture}


async def test_a_registered_environment_is_drawn_from_within_five_seconds(tmp_path: Path) -> None:
    async with followed(tmp_path) as (inbox, hub, follower):
        home = drawn(inbox)
        await hub.register_environment(guest())
        await until(lambda: "guest" in drawn(inbox))
        leases = lease_out(inbox, capacity=8)
        assert {lease.environment for lease in leases} == home | {"guest"}
        usual = {lease.usual_sampling for lease in leases if lease.environment == "guest"}
        assert usual == {guest().sampling}, "its server need not know what its spec says"
        assert "guest (1)" in follower.message


async def test_an_environment_whose_registration_expires_is_left_and_named(tmp_path: Path) -> None:
    async with followed(tmp_path) as (inbox, hub, follower):
        actor = Actor(
            actor_id="guest-0", kind=ActorKind.ENVIRONMENT, address="127.0.0.1:9", incarnation=uuid.uuid4().hex
        )
        registration_id, _ = await hub.register(actor)
        await hub.register_environment(guest(), registration_id=registration_id)
        await until(lambda: "guest" in drawn(inbox))
        held = [lease for lease in lease_out(inbox, capacity=8) if lease.environment == "guest"]
        assert held
        await until(lambda: "guest" not in drawn(inbox))  # no server of it sends a heartbeat
        assert "lost guest" in follower.message
        assert inbox.queue.counts().dropped == {"environment_left": len(held)}
        assert {worker.held for worker in inbox.workers()} == {8 - len(held)}
        assert "guest" not in {lease.environment for lease in inbox.grant().get("w", [])}
        events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        assert [event["event"] for event in events] == ["environment_joined", "environment_left"]
        assert events[1]["withdrawn"] == len(held)

        await hub.register_environment(guest())
        await until(lambda: "guest" in drawn(inbox))
        assert "lost" not in follower.message


async def test_a_changed_weight_changes_the_mixture(tmp_path: Path) -> None:
    async with followed(tmp_path) as (inbox, hub, _):
        await hub.register_environment(guest(1.0))
        await until(lambda: "guest" in drawn(inbox))
        await hub.register_environment(guest(3.0))
        await until(lambda: 3.0 in {i.weight for i in inbox.mixture if i.environment == "guest"})


async def test_a_hub_that_is_gone_leaves_the_mixture_as_it_is_and_is_named(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "store.db")
    async with hub_server("127.0.0.1:0", LEASE_SECONDS) as server:
        hub = HubClient(server.address, deadline_seconds=0.5)
        follower = EnvironmentFollower(hub, inbox, inbox.mixture, EventLog(tmp_path / "events.jsonl"))
        following = asyncio.create_task(follower.follow())
        await hub.register_environment(guest())
        await until(lambda: "guest" in drawn(inbox))
    await until(lambda: "does not answer" in follower.message)
    assert "guest" in drawn(inbox)
    following.cancel()
    await hub.close()
