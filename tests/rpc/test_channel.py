"""Calls to other actors: errors are ours, deadlines name who was waited for."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, Unavailable
from rlserve.rpc.channel import call, open_channel, rpc_errors
from rlserve.rpc.options import ChannelOptions
from rlserve.rpc.server import serving

SERVICE = "test.Words"


async def say(request: bytes, context: Any) -> bytes:
    if request == b"slow":
        await asyncio.sleep(30)
    if request == b"bad":
        raise InvalidRequest("word: is 'bad'; say another", reason="bad_word")
    return request


async def repeat(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    yield await say(request, context)


def add_words(server: grpc.aio.Server) -> None:
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@asynccontextmanager
async def words(options: ChannelOptions | None = None) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        serving(add_words, service_names=[SERVICE]) as server,
        open_channel(server.address, options=options) as channel,
    ):
        yield channel


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_the_servers_error_is_raised_as_the_same_class_and_names_the_peer() -> None:
    async with words() as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        with pytest.raises(InvalidRequest, match="words: word: is 'bad'") as caught:
            await call(method, b"bad", deadline_seconds=5, what="words")
        assert (caught.value.field, caught.value.reason) == ("word", "bad_word")


async def test_a_deadline_names_who_was_waited_for() -> None:
    async with words() as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        with pytest.raises(DeadlineExceeded, match=r"verifier-3: no answer within 0\.2 s"):
            await call(method, b"slow", deadline_seconds=0.2, what="verifier-3")


async def test_an_error_in_the_middle_of_a_stream_is_ours_too() -> None:
    async with words() as channel:
        stream = channel.unary_stream(f"/{SERVICE}/Repeat")(b"bad", timeout=5)
        seen = []
        with pytest.raises(InvalidRequest), rpc_errors("words"):
            async for part in stream:
                seen.append(part)
        assert seen == [b"bad"]


async def test_a_message_beyond_the_channels_limit_is_a_limit_exceeded() -> None:
    async with words(ChannelOptions(max_message_bytes=100)) as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        with pytest.raises(LimitExceeded, match="larger than max"):
            await call(method, b"x" * 101, deadline_seconds=5, what="words")


async def test_nobody_there_is_unavailable_at_once() -> None:
    async with open_channel(f"127.0.0.1:{free_port()}") as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="verifier-3"):
            await call(method, b"hello", deadline_seconds=20, what="verifier-3")
        assert time.monotonic() - started < 5


async def test_a_call_can_wait_for_a_server_that_starts_later() -> None:
    port = free_port()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary(f"/{SERVICE}/Say")
        waiting = asyncio.create_task(call(method, b"hello", deadline_seconds=20, what="words", wait_for_ready=True))
        await asyncio.sleep(0.3)
        async with serving(add_words, address=f"127.0.0.1:{port}", service_names=[SERVICE]):
            assert await waiting == b"hello"
