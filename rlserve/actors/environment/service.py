"""EnvironmentService: gives tasks and answers turns.

Stateless between episodes: a restarted server gives the same task for the same request.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import grpc.aio

from rlserve.actors.environment.episodes import EpisodeServer
from rlserve.config.episodes import EpisodesConfig
from rlserve.errors import InvalidRequest, PluginFailed, RlserveError, UnknownName
from rlserve.plugins import Environment
from rlserve.records import EnvironmentSpec, Task
from rlserve.rpc import codec
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EnvironmentService"].full_name
MAX_COUNT = 1024
MAX_INDEX = 2**53


class EnvironmentService(pb_grpc.EnvironmentServiceServicer):
    """The gRPC face of environment plug-ins."""

    def __init__(
        self,
        environments: Mapping[str, Environment],
        specs: Mapping[str, EnvironmentSpec],
        episodes: EpisodesConfig | None = None,
    ) -> None:
        self._environments = environments
        self._specs = specs
        self.episodes = EpisodeServer(episodes or EpisodesConfig(), find=self._find, give_task=self._task)

    async def Describe(
        self, request: pb.DescribeEnvironmentsRequest, context: Context
    ) -> pb.DescribeEnvironmentsResponse:
        return pb.DescribeEnvironmentsResponse(
            environments=[codec.environment_to_proto(spec) for spec in self._specs.values()]
        )

    async def GetTasks(self, request: pb.GetTasksRequest, context: Context) -> pb.GetTasksResponse:
        environment = self._find(request.environment)
        if not 1 <= request.count <= MAX_COUNT:
            raise InvalidRequest(f"count: is {request.count}; give 1 to {MAX_COUNT}")
        if request.first_index > MAX_INDEX:
            raise InvalidRequest(f"first_index: is {request.first_index}; give at most {MAX_INDEX}")
        if request.split not in environment.splits:
            known = ", ".join(environment.splits) or "none"
            raise UnknownName(f"split: {request.split!r} is not one of {request.environment!r} (known: {known})")
        first, last = request.first_index, request.first_index + request.count
        tasks = [self._task(environment, request.split, index, request.seed) for index in range(first, last)]
        return pb.GetTasksResponse(tasks=[codec.task_to_proto(task) for task in tasks])

    async def Episode(
        self, request_iterator: AsyncIterator[pb.EpisodeRequest], context: Context
    ) -> AsyncIterator[pb.EpisodeResponse]:
        async with contextlib.aclosing(self.episodes.serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    def _find(self, name: str) -> Environment:
        try:
            return self._environments[name]
        except KeyError:
            known = ", ".join(sorted(self._environments)) or "none"
            raise UnknownName(f"environment: {name!r} is not served here (known: {known})") from None

    def _task(self, environment: Environment, split: str, index: int, seed: int) -> Task:
        """The plug-in's task, with the sampling of its spec where it asks for none itself."""
        try:
            task = environment.task(split, index, seed)
        except RlserveError:
            raise
        except Exception as error:
            raise PluginFailed(f"environment {environment.name!r}: {type(error).__name__}: {error}") from error
        spec = self._specs.get(environment.name)
        if spec is None:
            return task
        return replace(task, sampling=task.sampling.or_else(spec.sampling))
