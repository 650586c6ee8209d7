"""Plays a dialogue over a stream to an environment server, and over another stream when that one breaks.

``_talk``  waits for: the policy's next turn, then the environment's answer to it.
           unblocked by: the engine, the answer, the turn's deadline, the server's disappearance from the hub, the
           episode's deadline.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from rlserve.actors.discovery.endpoint import EndpointLost
from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.rollout.episodes.chat_turns import PolicyTurn, TurnPair
from rlserve.actors.rollout.episodes.dialogue import Dialogue
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.config.waits import TURN_MARGIN_SECONDS
from rlserve.errors import DeadlineExceeded, LimitExceeded, PluginFailed
from rlserve.records import FinishReason, Turn
from rlserve.rpc import codec
from rlserve.rpc.channel import rpc_errors
from rlserve.rpc.codec.check import wire_text
from rlserve.v1 import environment_service_pb2 as pb
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc

CANCEL_SECONDS = 1.0
"""Wait for a server to end an episode that is over. Any value will do: the stream is cut after it."""


class EpisodeClient:
    """Episodes with whichever environment server of the pool is alive."""

    def __init__(self, pool: EndpointPool, config: EpisodesConfig) -> None:
        self._pool = pool
        self._config = config

    async def __call__(self, dialogue: Dialogue) -> None:
        """Play ``dialogue`` to its end. When a server fails, start again on another one, ``attempts`` times in all.

        A server that is full does not count as an attempt. Raises what the last server raised, DeadlineExceeded when
        the episode took too long, PluginFailed when a second server answers the same texts differently, PolicyFailed.
        """
        seconds = self._config.episode_seconds
        await self._pool.call(
            lambda channel: functools.partial(self._episode, channel),
            dialogue,
            serves=dialogue.task.environment,
            deadline_seconds=seconds,
            attempts=self._config.attempts,
            attempt_seconds=seconds,
        )

    async def _episode(
        self, channel: grpc.aio.Channel, dialogue: Dialogue, *, timeout: float, wait_for_ready: bool
    ) -> None:
        try:
            async with asyncio.timeout(timeout), _opened(channel, dialogue, self._config.turn_seconds) as talk:
                await _talk(talk, dialogue)
        except _Full as error:
            raise EndpointLost(str(error)) from error  # the pool skips the server for a while and counts no failure


class _Full(Exception):
    """A server refused the episode because it has no room."""


class _Stream:
    """One stream to one server."""

    def __init__(self, stub: Any, dialogue: Dialogue, turn_seconds: float) -> None:
        self._name = dialogue.task.environment
        self._turn_seconds = turn_seconds
        self._num_answers = 0
        self._outbox: asyncio.Queue[pb.EpisodeRequest | None] = asyncio.Queue()
        self._call = stub.Episode(self._requests())
        task = codec.task_to_proto(dialogue.task)
        self._outbox.put_nowait(pb.EpisodeRequest(open=pb.EpisodeOpen(task=task, episode_id=dialogue.episode_id)))

    async def answer(self, said: PolicyTurn) -> Turn:
        """The environment's answer to one turn of the policy."""
        turn = pb.PolicyTurn(
            text=wire_text(said.text),
            finish_reason=codec.FINISH_REASON.encode(said.finish_reason),
            tool_calls=[codec.tool_call_to_proto(call) for call in said.tool_calls],
        )
        self._outbox.put_nowait(pb.EpisodeRequest(turn=turn))
        seconds = self._turn_seconds + TURN_MARGIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
                with rpc_errors(""):
                    response = await self._call.read()
        except LimitExceeded as error:
            if self._num_answers == 0:  # only a full server refuses before its first answer
                raise _Full(str(error)) from error
            raise
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # the server's own
                raise
            raise DeadlineExceeded(f"environment {self._name!r}: did not answer a turn within {seconds:g} s") from None
        if response is grpc.aio.EOF:
            raise PluginFailed(f"environment {self._name!r}: ended the stream before the episode was done")
        self._num_answers += 1
        return codec.turn_from_proto(response)

    async def close(self, reason: str) -> None:
        """Tell the server that the episode is over; it need not agree."""
        self._outbox.put_nowait(pb.EpisodeRequest(cancel=pb.EpisodeCancel(reason=reason)))
        self._outbox.put_nowait(None)
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._call.read()

    def abandon(self) -> None:
        """End the stream at once."""
        self._call.cancel()

    async def _requests(self) -> AsyncIterator[pb.EpisodeRequest]:
        while (request := await self._outbox.get()) is not None:
            yield request


@contextlib.asynccontextmanager
async def _opened(channel: grpc.aio.Channel, dialogue: Dialogue, turn_seconds: float) -> AsyncIterator[_Stream]:
    stream = _Stream(pb_grpc.EnvironmentServiceStub(channel), dialogue, turn_seconds)
    try:
        yield stream
        # After the environment's last answer the server ends the stream by itself.
        if dialogue.finish_reason is not FinishReason.ENVIRONMENT:
            await stream.close(f"the policy's budget is used up ({dialogue.finish_reason})")
    finally:
        stream.abandon()


async def _talk(stream: _Stream, dialogue: Dialogue) -> None:
    # A second server starts the episode again: send it the texts that the first one answered, without sampling.
    for turn_pair in dialogue.turn_pairs:
        _check_repeated(dialogue.task.environment, turn_pair, await stream.answer(turn_pair.said))
    while (said := await dialogue.next_turn()) is not None:
        dialogue.receive(said, await stream.answer(said))


def _check_repeated(name: str, before: TurnPair, now: Turn) -> None:
    """Raise PluginFailed unless both servers answered alike. Verdicts are not compared: they hold their duration."""
    if (now.messages, now.done) != (before.turn.messages, before.turn.done):
        raise PluginFailed(
            f"environment {name!r}: answered {before.said.text!a} differently than before; its answers must follow "
            "from the task and the texts alone"
        )
