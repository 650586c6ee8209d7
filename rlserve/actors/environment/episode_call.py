"""One episode on an environment server, from the client's side, without a policy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio

from rlserve.errors import DeadlineExceeded, PluginFailed
from rlserve.records import FinishReason, Task, ToolCall, Turn
from rlserve.rpc import codec
from rlserve.rpc.channel import rpc_errors
from rlserve.rpc.codec.check import wire_text
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class EpisodeCall:
    """Says texts in an episode and returns the environment's answers. Made by :func:`open_episode`.

    Example::

        async with open_episode(channel, task) as episode:
            turn = await episode.answer("5")
    """

    def __init__(self, channel: grpc.aio.Channel, task: Task) -> None:
        self._task = task
        self._call = pb_grpc.EnvironmentServiceStub(channel).Episode()

    async def begin(self) -> None:
        """Open the episode, which is not answered."""
        opened = pb.EpisodeOpen(task=codec.task_to_proto(self._task), episode_id=f"check/{self._task.task_id}"[:200])
        await self._write(pb.EpisodeRequest(open=opened))

    async def answer(self, text: str, calls: Sequence[ToolCall] = (), *, deadline_seconds: float = 10.0) -> Turn:
        """The answer to one turn. Raises the server's error, DeadlineExceeded, PluginFailed if the stream ended."""
        turn = pb.PolicyTurn(
            text=wire_text(text),
            finish_reason=codec.FINISH_REASON.encode(FinishReason.STOP),
            tool_calls=[codec.tool_call_to_proto(call) for call in calls],
        )
        await self._write(pb.EpisodeRequest(turn=turn))
        response = await self._read(deadline_seconds)
        if response is grpc.aio.EOF:
            raise PluginFailed(f"environment {self._task.environment!r}: ended the stream before the episode was done")
        return codec.turn_from_proto(response)

    async def has_ended(self, *, deadline_seconds: float = 10.0) -> bool:
        """Whether the server ends the stream by itself, as it must after its last answer."""
        return bool(await self._read(deadline_seconds) is grpc.aio.EOF)

    async def leave(self, reason: str) -> None:
        """Say that the policy's part is over."""
        with contextlib.suppress(asyncio.InvalidStateError, grpc.RpcError):
            await self._call.write(pb.EpisodeRequest(cancel=pb.EpisodeCancel(reason=reason)))
            await self._call.done_writing()

    def cut(self) -> None:
        """End the stream at once."""
        self._call.cancel()

    async def _write(self, request: pb.EpisodeRequest) -> None:
        # A stream that broke says why when it is read.
        with contextlib.suppress(asyncio.InvalidStateError, grpc.RpcError):
            await self._call.write(request)

    async def _read(self, seconds: float) -> Any:
        """The next response, or ``grpc.aio.EOF``."""
        try:
            async with asyncio.timeout(seconds):
                with rpc_errors(""):
                    return await self._call.read()
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # the server's own
                raise
            raise DeadlineExceeded(f"no answer to a turn within {seconds:g} s") from None


@contextlib.asynccontextmanager
async def open_episode(channel: grpc.aio.Channel, task: Task) -> AsyncIterator[EpisodeCall]:
    """An open episode; the stream ends with the block."""
    episode = EpisodeCall(channel, task)
    await episode.begin()
    try:
        yield episode
    finally:
        episode.cut()
