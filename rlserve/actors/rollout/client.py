"""Client of one rollout worker: status, pause, resume, generate."""

from collections.abc import Sequence

import grpc.aio

from rlserve.records import Sampling, Trajectory
from rlserve.rpc import codec
from rlserve.rpc.channel import call, open_channel
from rlserve.v1 import rollout_service_pb2 as pb
from rlserve.v1 import rollout_service_pb2_grpc as pb_grpc

ANSWER_SECONDS = 10.0
"""For calls that a live worker answers at once; a busy machine may need seconds."""


class RolloutClient:
    """The rollout worker at one address, as an async context manager. Example::

        async with RolloutClient("127.0.0.1:7004") as worker:
            await worker.pause()

    Every method raises the worker's own errors, Unavailable when it cannot be reached, and DeadlineExceeded.
    """

    def __init__(self, address: str) -> None:
        self._what = f"rollout worker at {address}"
        self._channel: grpc.aio.Channel = open_channel(address)
        self._stub = pb_grpc.RolloutServiceStub(self._channel)

    async def __aenter__(self) -> "RolloutClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def status(self) -> pb.GetStatusResponse:
        """Its present version and counters."""
        request = pb.GetStatusRequest()
        return await call(self._stub.GetStatus, request, deadline_seconds=ANSWER_SECONDS, what=self._what)

    async def pause(self) -> None:
        """Hold new tasks back; running ones continue."""
        await call(self._stub.Pause, pb.PauseRequest(), deadline_seconds=ANSWER_SECONDS, what=self._what)

    async def resume(self) -> None:
        """Start new tasks again."""
        await call(self._stub.Resume, pb.ResumeRequest(), deadline_seconds=ANSWER_SECONDS, what=self._what)

    async def generate(
        self, prompt_token_ids: Sequence[int], *, n: int, sampling: Sampling, seed: int, deadline_seconds: float
    ) -> list[Trajectory]:
        """``n`` completions of one prompt under the present weights."""
        request = pb.GenerateRequest(
            prompt_token_ids=prompt_token_ids, n=n, sampling=codec.sampling_to_proto(sampling), seed=seed
        )
        response = await call(self._stub.Generate, request, deadline_seconds=deadline_seconds, what=self._what)
        return [codec.trajectory_from_proto(t, f"trajectories[{i}]") for i, t in enumerate(response.trajectories)]
