"""Environment server, over a real channel: what a caller sees."""

import functools
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rlserve.actors.environment.main import describe, load_environments
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.errors import ConfigError, InvalidRequest, NotReady, UnknownName
from rlserve.rpc import codec
from rlserve.rpc.channel import call, open_channel, rpc_errors
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc
from rlserve.v1 import task_pb2

CONFIG = EnvironmentConfig(name="arithmetic")


@asynccontextmanager
async def stub() -> AsyncIterator[Any]:
    loaded = load_environments([CONFIG])
    service = EnvironmentService(loaded, {"arithmetic": describe(loaded["arithmetic"], CONFIG)})
    add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
    async with serving(add, service_names=[SERVICE_NAME]) as server, open_channel(server.address) as channel:
        yield pb_grpc.EnvironmentServiceStub(channel)


def request(**changes: Any) -> pb.GetTasksRequest:
    fields = {"environment": "arithmetic", "split": "train", "first_index": 5, "count": 3, "seed": 7, **changes}
    return pb.GetTasksRequest(**fields)


async def get(request: pb.GetTasksRequest) -> pb.GetTasksResponse:
    async with stub() as server:
        response: pb.GetTasksResponse = await call(
            server.GetTasks, request, deadline_seconds=5, what="environment server"
        )
        return response


async def test_two_servers_give_the_same_tasks_for_the_same_request() -> None:
    first, second = await get(request()), await get(request())
    assert first == second
    tasks = [codec.task_from_proto(task) for task in first.tasks]
    assert [task.index for task in tasks] == [5, 6, 7]
    assert (await get(request(seed=8))) != first


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"environment": "arithmetics"}, UnknownName, "known: arithmetic"),
        ({"split": "trian"}, UnknownName, "known: .*train"),
        ({"count": 0}, InvalidRequest, "count: is 0"),
        ({"count": 100_000}, InvalidRequest, "count: is 100000"),
        ({"first_index": 2**60}, InvalidRequest, "first_index"),
    ],
)
async def test_a_bad_request_is_refused_by_field(
    changes: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        await get(request(**changes))


async def test_a_single_turn_environment_says_that_it_answers_no_turns() -> None:
    async with stub() as server:
        task = task_pb2.Task(environment="arithmetic")
        stream = server.Episode(iter([pb.EpisodeRequest(open=pb.EpisodeOpen(task=task))]))
        with pytest.raises(NotReady, match="single-turn"), rpc_errors("environment server"):
            await stream.read()


async def test_a_server_describes_what_it_serves() -> None:
    async with stub() as server:
        described = await call(server.Describe, pb.DescribeEnvironmentsRequest(), deadline_seconds=5, what="server")
    [spec] = described.environments
    assert (spec.name, spec.verifier, spec.splits["train"]) == ("arithmetic", "exact", 0)


def test_options_that_an_environment_does_not_take_name_their_table() -> None:
    with pytest.raises(ConfigError, match=r"environments\.0\.options\.max_digit: is not an option of 'arithmetic'"):
        load_environments([EnvironmentConfig(name="arithmetic", options={"max_digit": 3})])


def test_an_environment_host_needs_no_torch() -> None:
    code = "import sys, rlserve.actors.environment.main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
