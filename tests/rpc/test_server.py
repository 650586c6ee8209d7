"""A server as a caller sees it, over a real channel."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rlserve.errors import ConfigError, InvalidRequest, Unavailable
from rlserve.rpc import server as server_module
from rlserve.rpc.channel import open_channel
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import RunningServer, serving

SERVICE = "test.Echo"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Echo:
    """Answers with what it was sent; raises what the request names. One method for each kind of call."""

    def respond(self, request: bytes) -> bytes:
        if request == b"invalid":
            raise InvalidRequest("word: is 'invalid'; say another", field="word", reason="bad_word")
        if request == b"defect":
            raise KeyError("oops")
        return request

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return self.respond(request)

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield self.respond(request)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([self.respond(request) async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self.respond(request)

    async def written(self, request: bytes, context: Any) -> None:
        await context.write(self.respond(request))

    async def stuck(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"started"
        await asyncio.sleep(60)


def ascii_only(data: bytes) -> bytes:
    data.decode("ascii")
    return data


def add_echo(server: grpc.aio.Server) -> None:
    echo = Echo()
    handlers = {
        name: getattr(grpc, f"{name}_rpc_method_handler")(getattr(echo, name), request_deserializer=ascii_only)
        for name in KINDS
    }
    handlers["written"] = grpc.unary_stream_rpc_method_handler(echo.written)
    handlers["stuck"] = grpc.unary_stream_rpc_method_handler(echo.stuck)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@asynccontextmanager
async def echo_server(
    options: ServerOptions | None = None,
) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    async with (
        serving(add_echo, service_names=[SERVICE], options=options) as server,
        open_channel(server.address) as channel,
    ):
        yield server, channel


async def send(channel: grpc.aio.Channel, kind: str, request: bytes) -> bytes:
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    argument = iter([request]) if kind.startswith("stream") else request
    call = method(argument, timeout=5)
    if kind.endswith("unary"):
        return bytes(await call)
    return b",".join([part async for part in call])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_raised_on_purpose_arrives_with_its_status_and_is_counted(kind: str) -> None:
    async with echo_server() as (server, channel):
        assert (await send(channel, kind, b"hello")).endswith(b"hello")
        with pytest.raises(grpc.aio.AioRpcError, match="word: is 'invalid'; say another") as caught:
            await send(channel, kind, b"invalid")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert server.errors == {(f"/{SERVICE}/{kind}", "INVALID_ARGUMENT"): 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_defect_is_internal_names_its_type_and_logs_its_traceback(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with echo_server() as (server, channel):
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError, match="KeyError") as caught:
            await send(channel, kind, b"defect")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "Traceback" in caplog.text
        assert server.errors == {(f"/{SERVICE}/{kind}", "INTERNAL"): 1}
        assert (await send(channel, kind, b"hello")).endswith(b"hello")


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_the_callers_fault(kind: str) -> None:
    async with echo_server() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError, match="request: is not a message") as caught:
            await send(channel, kind, b"\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_handler_that_writes_to_the_context_is_covered_too() -> None:
    async with echo_server() as (_, channel):
        method = channel.unary_stream(f"/{SERVICE}/written")
        assert [part async for part in method(b"a", timeout=5)] == [b"a"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [part async for part in method(b"invalid", timeout=5)]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_oversized_message_is_refused_and_the_next_one_served() -> None:
    async with (
        serving(add_echo, service_names=[SERVICE], options=ServerOptions(max_message_bytes=1000)) as server,
        open_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
            await send(channel, "unary_unary", b"x" * 1001)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await send(channel, "unary_unary", b"x" * 990) == b"x" * 990


async def test_more_calls_than_the_limit_are_refused_at_once() -> None:
    async with echo_server(ServerOptions(max_concurrent_rpcs=2, stop_grace_seconds=0)) as (_, channel):
        stuck = [channel.unary_stream(f"/{SERVICE}/stuck")(b"", timeout=30) for _ in range(2)]
        assert await asyncio.gather(*(call.read() for call in stuck)) == [b"started"] * 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, "unary_unary", b"hello")
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_one_client_may_have_hundreds_of_calls_in_progress() -> None:
    async with echo_server() as (server, channel):
        await send(channel, "unary_unary", b"warm up")
        answers = await asyncio.gather(*(send(channel, "unary_unary", b"%d" % i) for i in range(800)))
        assert answers == [b"%d" % i for i in range(800)]
        assert not server.errors


async def test_health_says_serving_then_not_serving_when_it_stops() -> None:
    async with echo_server() as (server, channel):
        checks = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await checks.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving(False)
        watch = checks.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_watcher_of_health_hears_of_the_stop() -> None:
    async with open_stack() as (stack, channel):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(stack.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping


@asynccontextmanager
async def open_stack() -> AsyncIterator[tuple[Any, grpc.aio.Channel]]:
    """A server that the test itself stops."""
    stack = serving(add_echo, service_names=[SERVICE], options=ServerOptions(stop_grace_seconds=0.2))
    server = await stack.__aenter__()
    async with open_channel(server.address) as channel:
        yield stack, channel


async def test_a_stop_ends_within_its_grace_though_a_call_is_stuck() -> None:
    async with open_stack() as (stack, channel):
        call = channel.unary_stream(f"/{SERVICE}/stuck")(b"", timeout=30)
        assert await call.read() == b"started"
        started = asyncio.get_running_loop().time()
        await stack.__aexit__(None, None, None)
        assert asyncio.get_running_loop().time() - started < 2
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call.read()


async def test_reflection_lists_the_services() -> None:
    async with echo_server() as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request]), timeout=5):
            names = {service.name for service in answer.list_services_response.service}
            assert {SERVICE, "grpc.health.v1.Health"} <= names
            break


async def test_a_second_server_cannot_share_a_port() -> None:
    async with echo_server() as (server, _):
        with pytest.raises(Unavailable, match="cannot be bound"):
            async with serving(add_echo, address=server.address, service_names=[SERVICE]):
                pass


async def test_other_hosts_get_in_only_with_tls_or_an_explicit_word() -> None:
    with pytest.raises(ConfigError, match="no TLS"):
        async with serving(add_echo, address="0.0.0.0:0", service_names=[SERVICE]):
            pass
    options = ServerOptions(insecure=True, advertised_host="127.0.0.1")
    async with (
        serving(add_echo, address="0.0.0.0:0", service_names=[SERVICE], options=options) as server,
        open_channel(server.address) as channel,
    ):
        assert await send(channel, "unary_unary", b"hello") == b"hello"


async def test_a_stop_that_grpc_does_not_finish_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen once in five stops after a client had gone; it cannot be had at will."""
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.1)

    stop, stopped_with = server_module._stop, []

    async def never_ends(*arguments: Any) -> None:
        stopped_with.append(arguments)
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        async with serving(add_echo, service_names=[SERVICE], options=ServerOptions(stop_grace_seconds=0.1)) as server:
            monkeypatch.setattr(server_module, "_stop", never_ends)
    assert f"server at {server.address}: did not stop within 0.2 s" in caplog.text
    await stop(*stopped_with[0])


async def test_connections_that_say_nothing_lock_nobody_out() -> None:
    options = ServerOptions(max_connections=8, handshake_seconds=1.0)
    async with serving(add_echo, service_names=[SERVICE], options=options) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        try:
            async with asyncio.timeout(30), open_channel(server.address) as channel:
                method = channel.unary_unary(f"/{SERVICE}/unary_unary")
                assert await method(b"hello", timeout=30, wait_for_ready=True) == b"hello"
        finally:
            for connection in idle:
                connection.close()


def test_a_server_takes_all_descriptors_that_it_may_have() -> None:
    program = "from rlserve.rpc.descriptors import raise_limit; print(raise_limit())"
    shell = f"ulimit -S -n 128 && ulimit -H -n 512 && {sys.executable} -c '{program}'"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "512"
