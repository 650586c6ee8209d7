"""The hub over a real channel: what callers of each method see."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from rlserve.actors.hub.main import hub_server
from rlserve.rpc.channel import open_channel
from rlserve.v1 import hub_service_pb2 as pb
from rlserve.v1 import hub_service_pb2_grpc as pb_grpc

TIMEOUT = 1.0


@asynccontextmanager
async def hub() -> AsyncIterator[pb_grpc.HubServiceStub]:
    async with hub_server("127.0.0.1:0", TIMEOUT) as server, open_channel(server.address) as channel:
        yield pb_grpc.HubServiceStub(channel)


def actor(**fields: Any) -> pb.Actor:
    good = {"actor_id": "v-0", "kind": pb.ACTOR_KIND_VERIFIER, "address": "127.0.0.1:1", "incarnation": "i"}
    return pb.Actor(**(good | fields))


def spec(**fields: Any) -> pb.EnvironmentSpec:
    return pb.EnvironmentSpec(
        **({"name": "e", "version": "1", "address": "127.0.0.1:1", "splits": {"train": 1}} | fields)
    )


def state(**fields: Any) -> pb.RunState:
    return pb.RunState(**({"run_id": "r", "phase": "training"} | fields))


MALFORMED = [
    ("Register", pb.RegisterRequest(), "actor.actor_id"),
    ("Register", pb.RegisterRequest(actor=actor(actor_id="")), "actor.actor_id"),
    ("Register", pb.RegisterRequest(actor=actor(actor_id="x" * 300)), "actor.actor_id"),
    ("Register", pb.RegisterRequest(actor=actor(kind=0)), "actor.kind"),
    ("Register", pb.RegisterRequest(actor=actor(kind=99)), "actor.kind"),
    ("Register", pb.RegisterRequest(actor=actor(address="nowhere")), "actor.address"),
    ("Register", pb.RegisterRequest(actor=actor(incarnation="")), "actor.incarnation"),
    ("Register", pb.RegisterRequest(actor=actor(serves=["a", ""])), "actor.serves[1]"),
    ("Register", pb.RegisterRequest(actor=actor(serves=["a"] * 300)), "actor.serves"),
    ("Register", pb.RegisterRequest(actor=actor(last_seen_unix_seconds=math.nan)), "actor.last_seen_unix_seconds"),
    ("Heartbeat", pb.HeartbeatRequest(), "lease_id"),
    ("Heartbeat", pb.HeartbeatRequest(lease_id="x", status={"a": "b" * 5000}), "status['a']"),
    ("Heartbeat", pb.HeartbeatRequest(lease_id="x", status={str(i): "" for i in range(300)}), "status"),
    ("Deregister", pb.DeregisterRequest(), "lease_id"),
    ("ListActors", pb.ListActorsRequest(kind=99), "kind"),
    ("Watch", pb.WatchRequest(kind=99), "kind"),
    ("ReportRunState", pb.ReportRunStateRequest(), "state.phase"),
    ("ReportRunState", pb.ReportRunStateRequest(state=state(phase="dreaming")), "state.phase"),
    ("ReportRunState", pb.ReportRunStateRequest(state=state(run_id="")), "state.run_id"),
    ("ReportRunState", pb.ReportRunStateRequest(state=state(step=2**63)), "state.step"),
    ("RegisterEnvironment", pb.RegisterEnvironmentRequest(), "spec.splits"),
    ("RegisterEnvironment", pb.RegisterEnvironmentRequest(spec=spec(name="")), "spec.name"),
    ("RegisterEnvironment", pb.RegisterEnvironmentRequest(spec=spec(address="")), "spec.address"),
    ("RegisterEnvironment", pb.RegisterEnvironmentRequest(spec=spec(weight=-1)), "spec.weight"),
    (
        "RegisterEnvironment",
        pb.RegisterEnvironmentRequest(spec=spec(payload_schema_json="{")),
        "spec.payload_schema_json",
    ),
    ("UnregisterEnvironment", pb.UnregisterEnvironmentRequest(), "name"),
]
# Nothing in these can be wrong.
WITHOUT_FIELDS = {"GetRunState", "ListEnvironments"}


def test_every_method_is_asked_something_malformed() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["HubService"].methods}
    assert {method for method, _, _ in MALFORMED} | WITHOUT_FIELDS == methods


@pytest.mark.parametrize(("method", "request_", "field"), MALFORMED, ids=[f"{m}-{f}" for m, _, f in MALFORMED])
async def test_a_malformed_request_is_refused_by_field(method: str, request_: Any, field: str) -> None:
    async with hub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer(stub, method, request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[1].Unpack(bad)
    assert bad.field_violations[0].field == field


async def answer(stub: pb_grpc.HubServiceStub, method: str, request: Any) -> Any:
    call = getattr(stub, method)(request, timeout=5)
    return [message async for message in call] if method == "Watch" else await call


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Heartbeat", pb.HeartbeatRequest(lease_id="never")),
        ("Deregister", pb.DeregisterRequest(lease_id="never")),
        ("RegisterEnvironment", pb.RegisterEnvironmentRequest(spec=spec(), lease_id="never")),
        ("UnregisterEnvironment", pb.UnregisterEnvironmentRequest(name="never")),
    ],
)
async def test_what_the_hub_does_not_know_is_not_found(method: str, request_: Any) -> None:
    async with hub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer(stub, method, request_)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watcher_hears_the_present_then_that_it_is_complete_then_changes() -> None:
    async with hub() as stub:
        await stub.Register(pb.RegisterRequest(actor=actor()))
        await stub.Register(pb.RegisterRequest(actor=actor(actor_id="r-0", kind=pb.ACTOR_KIND_ROLLOUT)))
        watch = stub.Watch(pb.WatchRequest(kind=pb.ACTOR_KIND_VERIFIER), timeout=10)
        first = await watch.read()
        assert (first.change, first.actor.actor_id) == (pb.WatchResponse.CHANGE_JOINED, "v-0")
        assert (await watch.read()).change == pb.WatchResponse.CHANGE_SYNCED
        await stub.Register(pb.RegisterRequest(actor=actor(actor_id="r-1", kind=pb.ACTOR_KIND_ROLLOUT)))
        registration_id = (await stub.Register(pb.RegisterRequest(actor=actor(actor_id="v-1")))).lease_id
        joined = await watch.read()
        assert (joined.change, joined.actor.actor_id) == (pb.WatchResponse.CHANGE_JOINED, "v-1")
        await stub.Deregister(pb.DeregisterRequest(lease_id=registration_id))
        left = await watch.read()
        assert (left.change, left.actor.actor_id) == (pb.WatchResponse.CHANGE_LEFT, "v-1")


async def test_a_silent_actor_expires_within_its_timeout_and_watchers_see_it() -> None:
    async with hub() as stub:
        watch = stub.Watch(pb.WatchRequest(), timeout=10)
        assert (await watch.read()).change == pb.WatchResponse.CHANGE_SYNCED
        loop = asyncio.get_running_loop()
        await stub.Register(pb.RegisterRequest(actor=actor()))
        registered = loop.time()
        assert (await watch.read()).change == pb.WatchResponse.CHANGE_JOINED
        assert (await watch.read()).change == pb.WatchResponse.CHANGE_EXPIRED
        assert TIMEOUT * 0.9 < loop.time() - registered < TIMEOUT * 2
        assert not (await stub.ListActors(pb.ListActorsRequest())).actors


async def test_the_run_state_is_what_was_last_reported() -> None:
    async with hub() as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="no learner has reported yet") as caught:
            await stub.GetRunState(pb.GetRunStateRequest())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        for step in (1, 2):
            report = state(step=step, metrics={"train/reward": 0.5, "lag": math.nan}, groups={"received": 7})
            await stub.ReportRunState(pb.ReportRunStateRequest(state=report))
        held = (await stub.GetRunState(pb.GetRunStateRequest())).state
        assert (held.step, held.groups["received"]) == (2, 7)
        assert math.isnan(held.metrics["lag"])
        assert held.updated_unix_seconds > 0


async def test_a_stop_does_not_wait_for_watchers() -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as channels:
        async with hub_server("127.0.0.1:0", TIMEOUT) as server:
            channel = await channels.enter_async_context(open_channel(server.address))
            watch = pb_grpc.HubServiceStub(channel).Watch(pb.WatchRequest(), timeout=30)
            await watch.read()
            watching = asyncio.create_task(watch.read())
            stopping = loop.time()
        assert loop.time() - stopping < 1.5
        assert await watching is grpc.aio.EOF
