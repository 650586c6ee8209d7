"""EnvironmentService: returns tasks and answers turns.

Stateless between episodes: a restarted server returns the same task for the same request.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import grpc.aio

from rlserve.actors.environment.blame import Blame
from rlserve.actors.environment.episodes import EpisodeServer
from rlserve.actors.environment.tasks import TaskMaker
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.plugins import Environment
from rlserve.records import EnvironmentSpec, Task
from rlserve.rpc import codec
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EnvironmentService"].full_name
MAX_COUNT = 1024
"""Tasks per request; the message limit ends a request of large tasks earlier."""
MAX_INDEX = 2**53
"""The largest integer that servers in JavaScript and other languages with double numbers represent exactly."""
OWN_SHARE = 0.8
"""Share of the caller's deadline for the environment; the rest is for the error that names it to arrive."""


class EnvironmentService(pb_grpc.EnvironmentServiceServicer):
    """gRPC servicer of environment plug-ins."""

    def __init__(
        self,
        environments: Mapping[str, Environment],
        specs: Mapping[str, EnvironmentSpec],
        episodes: EpisodesConfig | None = None,
    ) -> None:
        self._environments = environments
        self._specs = specs
        blames = {name: Blame(environment, name) for name, environment in environments.items()}
        self.tasks = TaskMaker(blames, finish=self._with_usual_sampling)
        self.episodes = EpisodeServer(
            episodes or EpisodesConfig(), find=self._find, give_task=self.tasks.task, blames=blames
        )

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
        indices = range(request.first_index, request.first_index + request.count)
        left = context.time_remaining()
        seconds = None if left is None else OWN_SHARE * left
        tasks = await self.tasks.make(environment, request.split, indices, request.seed, seconds=seconds)
        return pb.GetTasksResponse(tasks=tasks)

    async def Episode(
        self, request_iterator: AsyncIterator[pb.EpisodeRequest], context: Context
    ) -> AsyncIterator[pb.EpisodeResponse]:
        # A caller that leaves must end the plug-in's episode now, not at some garbage collection.
        async with contextlib.aclosing(self.episodes.serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    def _find(self, name: str) -> Environment:
        try:
            return self._environments[name]
        except KeyError:
            known = ", ".join(sorted(self._environments)) or "none"
            raise UnknownName(f"environment: {name!r} is not served here (known: {known})") from None

    def _with_usual_sampling(self, task: Task) -> Task:
        """The task with its environment's sampling where it sets none of its own."""
        spec = self._specs.get(task.environment)
        if spec is None:
            return task
        return replace(task, sampling=task.sampling.or_else(spec.sampling))
