"""Client of one environment server."""

from contextlib import AbstractAsyncContextManager

import grpc.aio

from rlserve.actors.environment.episode_call import EpisodeCall, open_episode
from rlserve.records import EnvironmentSpec, Task
from rlserve.rpc import codec
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.tls import TlsFiles
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class EnvironmentClient:
    """The environment server at one address, in any language. Use it as an async context manager, or close it.

    Every method raises the server's own errors, Unavailable when it cannot be reached, and DeadlineExceeded.
    """

    def __init__(self, address: str, *, tls: TlsFiles | None = None) -> None:
        self.address = address
        self._channel: grpc.aio.Channel = open_channel(address, tls=tls)
        self._stub = pb_grpc.EnvironmentServiceStub(self._channel)

    async def __aenter__(self) -> "EnvironmentClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def describe(self, *, deadline_seconds: float = 5.0) -> list[EnvironmentSpec]:
        """The specs that the server offers; an empty address is replaced by this server's."""
        request = pb.DescribeEnvironmentsRequest()
        response = await call(self._stub.Describe, request, deadline_seconds=deadline_seconds, what=self._what)
        for spec in response.environments:
            spec.address = spec.address or self.address
        return [
            codec.environment_from_proto(spec, f"environments[{i}]") for i, spec in enumerate(response.environments)
        ]

    def episode(self, task: Task) -> AbstractAsyncContextManager[EpisodeCall]:
        """An open episode of a multi-turn task, for the duration of the block."""
        return open_episode(self._channel, task)

    async def get_tasks(
        self,
        environment: str,
        *,
        split: str = "train",
        first_index: int = 0,
        count: int = 1,
        seed: int = 0,
        deadline_seconds: float = 10.0,
    ) -> list[Task]:
        """``count`` tasks from ``first_index`` on."""
        request = pb.GetTasksRequest(
            environment=environment, split=split, first_index=first_index, count=count, seed=seed
        )
        response = await call(self._stub.GetTasks, request, deadline_seconds=deadline_seconds, what=self._what)
        return [codec.task_from_proto(task, f"tasks[{i}]") for i, task in enumerate(response.tasks)]

    @property
    def _what(self) -> str:
        return f"environment server at {self.address}"
