"""A hub that is killed and started again knows what no actor would tell it again."""

from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from rlserve.actors.hub.main import hub_server
from rlserve.actors.hub.memory import HubMemory
from rlserve.config.paths import RunPaths
from rlserve.rpc.channel import open_channel
from rlserve.store.base import StoreBackend
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.sqlite_backend import SqliteBackend
from rlserve.v1 import hub_service_pb2 as pb
from rlserve.v1 import hub_service_pb2_grpc as pb_grpc
from tests.support.processes.redis_server import RedisServer, shared_server

BACKENDS: dict[str, Callable[[], StoreBackend]] = {
    "sqlite": SqliteBackend,
    "redis": lambda: RedisBackend(url=shared_server().url),
}


def spec(name: str) -> pb.EnvironmentSpec:
    return pb.EnvironmentSpec(name=name, version="1", address="127.0.0.1:1", splits={"train": 1})


@pytest.mark.parametrize("backend", BACKENDS)
async def test_environments_names_kept_out_and_run_state_outlive_the_hub(backend: str, tmp_path: Path) -> None:
    memory = HubMemory(BACKENDS[backend](), RunPaths(tmp_path))
    async with hub_server("127.0.0.1:0", 1.0, memory) as server, open_channel(server.address) as channel:
        stub = pb_grpc.HubServiceStub(channel)
        for name in ("stays", "goes", "out"):
            await stub.RegisterEnvironment(pb.RegisterEnvironmentRequest(spec=spec(name)))
        await stub.UnregisterEnvironment(pb.UnregisterEnvironmentRequest(name="goes"))
        await stub.UnregisterEnvironment(pb.UnregisterEnvironmentRequest(name="out", keep_out=True))
        state = pb.RunState(run_id="r", phase="training", step=7)
        await stub.ReportRunState(pb.ReportRunStateRequest(state=state))
    async with hub_server("127.0.0.1:0", 1.0, memory) as server, open_channel(server.address) as channel:
        stub = pb_grpc.HubServiceStub(channel)
        held = await stub.ListEnvironments(pb.ListEnvironmentsRequest())
        assert [one.name for one in held.environments] == ["stays"]
        actors = await stub.ListActors(pb.ListActorsRequest())
        assert [list(actor.serves) for actor in actors.actors] == [["stays"]]
        assert (await stub.GetRunState(pb.GetRunStateRequest())).state.step == 7
        await stub.RegisterEnvironment(pb.RegisterEnvironmentRequest(spec=spec("out")))
        held = await stub.ListEnvironments(pb.ListEnvironmentsRequest())
        assert [one.name for one in held.environments] == ["stays"], "still kept out"


async def test_a_memory_that_cannot_be_read_does_not_keep_a_hub_from_serving(tmp_path: Path) -> None:
    memory = HubMemory(SqliteBackend(), RunPaths(tmp_path))
    for text in (b"", b"{}", b'{"standalone": [["AAAA", ""]], "kept_out": [], "state": ""}'):
        memory.backend.remember_hub(memory.paths, text)
        async with hub_server("127.0.0.1:0", 1.0, memory) as server, open_channel(server.address) as channel:
            held = await pb_grpc.HubServiceStub(channel).ListEnvironments(pb.ListEnvironmentsRequest())
            assert not held.environments


async def test_a_hub_whose_store_is_away_says_so_and_serves_the_run(tmp_path: Path) -> None:
    with RedisServer() as redis:
        memory = HubMemory(RedisBackend(url=redis.url), RunPaths(tmp_path))
        async with hub_server("127.0.0.1:0", 1.0, memory) as server, open_channel(server.address) as channel:
            stub = pb_grpc.HubServiceStub(channel)
            redis.kill()
            await stub.ReportRunState(pb.ReportRunStateRequest(state=pb.RunState(run_id="r", phase="training")))
            with pytest.raises(grpc.aio.AioRpcError, match="cannot be reached"):
                await stub.RegisterEnvironment(pb.RegisterEnvironmentRequest(spec=spec("e")))
