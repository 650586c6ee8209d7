"""Every field of every message has a bound, and what breaks one is refused by name, also by real servers."""

import functools
import importlib
import math
import pkgutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import rlserve.v1
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.errors import InvalidRequest, LimitExceeded, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.codec import bounds
from rlserve.rpc.codec.bounds import BOUNDS, LEFT_TO_CODEC, check_bounds, needs_bound
from rlserve.rpc.server import serving
from rlserve.v1 import hub_service_pb2 as hub_pb
from rlserve.v1 import hub_service_pb2_grpc as hub_grpc
from rlserve.v1 import policy_stream_service_pb2 as policy_pb
from rlserve.v1 import policy_stream_service_pb2_grpc as policy_grpc
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService

F = FieldDescriptor
WHOLE_TYPE = {bounds.small, bounds.bits, bounds.real}
"""Bounds that every value of the type keeps: 32 bits, a seed, a number that is judged where it is decoded."""
SIZES = (257, 1025, 4097, 65537, 2**20 + 1, 2**22 + 1, 2**24 + 1, 2**26 + 1)
CONTROL = "a\x1b[31m"
LONG = "x" * 10_000_000


def all_messages() -> Iterator[Descriptor]:
    for module in sorted(pkgutil.iter_modules(rlserve.v1.__path__), key=lambda m: m.name):
        if module.name.endswith("_pb2"):
            yield from importlib.import_module(f"rlserve.v1.{module.name}").DESCRIPTOR.message_types_by_name.values()


def test_every_field_has_a_declared_bound() -> None:
    fields = {f"{m.name}.{f.name}" for m in all_messages() for f in m.fields if needs_bound(f)}
    declared = {f"{message}.{field}" for message, known in BOUNDS.items() for field in known}
    assert fields - declared == set(), "declare these in rlserve.rpc.codec.bounds"


def test_a_field_without_a_bound_is_held_to_the_widest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "BOUNDS", {})
    bounds._plan.cache_clear()
    check_bounds(hub_pb.HeartbeatRequest(lease_id="a"))
    with pytest.raises(InvalidRequest, match="lease_id: has 4194305 entries"):
        check_bounds(hub_pb.HeartbeatRequest(lease_id="a" * (2**22 + 1)))
    with pytest.raises(InvalidRequest, match="stall_seconds"):
        check_bounds(policy_pb.ConfirmRequest(stall_seconds=math.nan))
    bounds._plan.cache_clear()


def breaking(field: FieldDescriptor) -> Iterator[Any]:
    """Values, one of which breaks any bound of this field."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        sample = "x" if value.type == F.TYPE_STRING else 1
        yield {f"k{i}": sample for i in range(4097)}
    elif field.is_repeated:
        one: Any = GetMessageClass(field.message_type)() if field.message_type else None
        one = one if one is not None else {F.TYPE_STRING: "x", F.TYPE_BYTES: b"x"}.get(field.type, 1)
        yield from ([one] * size for size in SIZES)
    elif field.type == F.TYPE_STRING:
        yield from (CONTROL, *("x" * size for size in SIZES))
    elif field.type == F.TYPE_BYTES:
        yield from (b"x" * size for size in SIZES)
    elif field.type in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
        yield from (math.nan,)
    else:
        yield 2**64 - 1


def with_value(message: Message, field: FieldDescriptor, value: Any) -> Message:
    if isinstance(value, dict):
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    else:
        setattr(message, field.name, value)
    return message


@pytest.mark.parametrize("name", sorted(({m.name for m in all_messages()} & set(BOUNDS)) - LEFT_TO_CODEC))
def test_what_breaks_a_bound_is_refused_by_the_name_of_the_field(name: str) -> None:
    descriptor = next(m for m in all_messages() if m.name == name)
    for field in descriptor.fields:
        check = BOUNDS[name].get(field.name)
        if check is None or check in WHOLE_TYPE or (field.is_repeated and len(SIZES) and _is_huge(check)):
            continue
        kind = GetMessageClass(descriptor)
        for value in breaking(field):
            try:
                check_bounds(with_value(kind(), field, value))
            except InvalidRequest as error:
                assert error.field.startswith(field.name)
                assert len(str(error)) < 1000 and str(error).isprintable()
                break
        else:
            pytest.fail(f"{name}.{field.name}: nothing was refused")


def _is_huge(check: Any) -> bool:
    """Lists whose bound is above what a test can afford to build as messages."""
    return any(cell.cell_contents in (2**18, 2**22, 2**26, 65536) for cell in check.__closure__ or ())


SPEC = EnvironmentSpec(name="e", address="127.0.0.1:1", splits={"train": 0})
ACTOR = Actor(actor_id="a-0", kind=ActorKind.ENVIRONMENT, address="127.0.0.1:1", incarnation="i")


def actor(**fields: Any) -> hub_pb.RegisterRequest:
    given: dict[str, Any] = {"actor_id": "a", "kind": 4, "address": "127.0.0.1:1", "incarnation": "i", **fields}
    return hub_pb.RegisterRequest(actor=hub_pb.Actor(**given))


def spec(**fields: Any) -> hub_pb.RegisterEnvironmentRequest:
    given: dict[str, Any] = {"name": "e", "version": "1", "address": "127.0.0.1:1", "splits": {"train": 0}, **fields}
    return hub_pb.RegisterEnvironmentRequest(spec=hub_pb.EnvironmentSpec(**given))


def report(**fields: Any) -> hub_pb.ReportRunStateRequest:
    return hub_pb.ReportRunStateRequest(state=hub_pb.RunState(**{"run_id": "r", "phase": "training", **fields}))


TOO_LONG = "x" * 5000
HUB = [
    ("Register", actor(actor_id=CONTROL), "actor.actor_id"),
    ("Register", actor(actor_id="w0\n07:00:00 learner ERROR FORGED"), "actor.actor_id"),
    ("Register", actor(actor_id=TOO_LONG), "actor.actor_id"),
    ("Register", actor(incarnation=CONTROL), "actor.incarnation"),
    ("Register", actor(host=TOO_LONG), "actor.host"),
    ("Register", actor(host=CONTROL), "actor.host"),
    ("Register", actor(run_id=TOO_LONG), "actor.run_id"),
    ("Register", actor(serves=["x"] * 257), "actor.serves"),
    ("Register", actor(serves=[CONTROL]), "actor.serves[0]"),
    ("Register", actor(status={f"k{i}": "" for i in range(65)}), "actor.status"),
    ("Register", actor(status={TOO_LONG: ""}), "actor.status: a key"),
    ("Register", actor(status={CONTROL: ""}), "actor.status: a key"),
    ("Register", actor(registered_unix_seconds=math.nan), "actor.registered_unix_seconds"),
    ("Heartbeat", hub_pb.HeartbeatRequest(lease_id="a", status={"k": TOO_LONG}), "status['k']"),
    ("Heartbeat", hub_pb.HeartbeatRequest(lease_id=CONTROL), "lease_id"),
    ("Deregister", hub_pb.DeregisterRequest(lease_id=TOO_LONG), "lease_id"),
    ("ListActors", hub_pb.ListActorsRequest(after=CONTROL), "after"),
    ("RegisterEnvironment", spec(description=TOO_LONG), "spec.description"),
    ("RegisterEnvironment", spec(verifier=TOO_LONG), "spec.verifier"),
    ("RegisterEnvironment", spec(name=CONTROL), "spec.name"),
    ("RegisterEnvironment", spec(version=TOO_LONG), "spec.version"),
    ("RegisterEnvironment", spec(held_out=["x"] * 257), "spec.held_out"),
    ("RegisterEnvironment", spec(command=["x"] * 257), "spec.command"),
    ("RegisterEnvironment", spec(weight=math.inf), "spec.weight"),
    ("RegisterEnvironment", spec(splits={"train": 2**64 - 1}), "spec.splits['train']"),
    ("UnregisterEnvironment", hub_pb.UnregisterEnvironmentRequest(name=TOO_LONG), "name"),
    ("ReportRunState", report(message=TOO_LONG), "state.message"),
    ("ReportRunState", report(step=2**64 - 1), "state.step"),
    ("ReportRunState", report(run_id=CONTROL), "state.run_id"),
    ("ReportRunState", report(groups={"g": 2**64 - 1}), "state.groups['g']"),
    ("ReportRunState", report(updated_unix_seconds=-1.0), "state.updated_unix_seconds"),
]


@pytest.fixture
async def hub() -> AsyncIterator[str]:
    async with hub_server("127.0.0.1:0", 5.0) as server:
        yield server.address


async def test_a_hub_refuses_what_is_out_of_bounds_by_the_name_of_the_field(hub: str) -> None:
    async with open_channel(hub) as channel:
        stub = hub_grpc.HubServiceStub(channel)
        for method, request, field in HUB:
            with pytest.raises(InvalidRequest) as error:
                await call(getattr(stub, method), request, deadline_seconds=20, what="hub")
            assert error.value.field == field, (method, field)
            assert str(error.value).isprintable() and len(str(error.value)) < 1200


async def test_a_hub_takes_no_megabytes(hub: str) -> None:
    async with open_channel(hub) as channel:
        stub = hub_grpc.HubServiceStub(channel)
        with pytest.raises(LimitExceeded, match="larger than max"):
            await call(stub.Register, actor(host=LONG), deadline_seconds=20, what="hub")


async def test_lists_longer_than_a_message_come_in_parts(hub: str) -> None:
    async with HubClient(hub) as client:
        schema = '{"a": "' + "x" * 60_000 + '"}'
        registration_id, _ = await client.register(ACTOR)
        for number in range(40):
            one = EnvironmentSpec(
                name=f"e{number:03}", address=ACTOR.address, splits={"train": 0}, payload_schema_json=schema
            )
            await client.register_environment(one, registration_id=registration_id)
            status = {f"k{i}": "x" * 1000 for i in range(60)}
            held, _ = await client.register(
                Actor(actor_id=f"v-{number:03}", kind=ActorKind.VERIFIER, address="127.0.0.1:2", incarnation="i")
            )
            await client.heartbeat(held, status)
        assert [s.name for s in await client.list_environments()] == [f"e{n:03}" for n in range(40)]
        assert [a.actor_id for a in await client.list_actors()] == ["a-0", *(f"v-{n:03}" for n in range(40))]


CONFIRM = {"worker_id": "w", "version": 0, "stall_seconds": 0.1, "update_seconds": 0.1}
POLICY = [
    *(
        ("Confirm", policy_pb.ConfirmRequest(**{**CONFIRM, "digest": "ab", **wrong}), next(iter(wrong)))
        for wrong in (
            {"stall_seconds": math.nan}, {"stall_seconds": -5.0}, {"update_seconds": math.inf},
            {"update_seconds": 1e308}, {"worker_id": TOO_LONG}, {"worker_id": CONTROL}, {"worker_id": ""},
            {"digest": "no hex"}, {"digest": "ab" * 100}, {"version": 2**64 - 1},
        )
    ),
    *(
        ("Fetch", policy_pb.FetchRequest(**{"worker_id": "w", **wrong}), next(iter(wrong)))
        for wrong in ({"chunk_bytes": 1}, {"chunk_bytes": 2**31}, {"worker_id": ""}, {"host_id": TOO_LONG})
    ),
    ("Announce", policy_pb.AnnounceRequest(worker_id=CONTROL), "worker_id"),
]  # fmt: skip


async def test_the_policy_stream_refuses_what_is_out_of_bounds(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, run_id="r")
    policy = publisher.publish([("a", torch.zeros(10))], 0)
    service = PolicyService(publisher, chunk_bytes=2**20)
    add = functools.partial(policy_grpc.add_PolicyStreamServiceServicer_to_server, service)
    async with (
        serving(add, service_names=[SERVICE_NAME]) as server,
        open_channel(server.address) as channel,
    ):
        stub = policy_grpc.PolicyStreamServiceStub(channel)
        for method, request, field in POLICY:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                answer = getattr(stub, method)(request, timeout=20)
                await (answer if method == "Confirm" else answer.read())
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.value.details() or "").startswith(f"{field}: "), (method, field, error.value.details())
        with pytest.raises(UnknownName):
            request = policy_pb.ConfirmRequest(**{**CONFIRM, "version": 3, "digest": policy.digest})
            await call(stub.Confirm, request, deadline_seconds=20, what="learner")
        for number in range(5000):
            request = policy_pb.ConfirmRequest(**{**CONFIRM, "worker_id": f"w{number}", "digest": policy.digest})
            await service.Confirm(request, None)  # type: ignore[arg-type]
        assert len(service.reports()) == len(service.served()) == 4096 and service.num_reports == 5000
        assert "w4999" in service.served() and "w0" not in service.served()
    publisher.close()
