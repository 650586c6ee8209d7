"""The token of a run: asked of every caller, of every kind of call, and never shown."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rlserve.errors import ConfigError, InvalidRequest
from rlserve.rpc.channel import call, open_channel, rpc_errors
from rlserve.rpc.server import serving
from rlserve.rpc.token import run_token

SERVICE = "test.Words"
TOKEN, OTHER = "a-token-of-24-characters", "another-of-24-characters"


async def one(request: bytes, context: Any) -> bytes:
    return b"one"


async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"one"


def add_words(server: grpc.aio.Server) -> None:
    handlers = {
        "UU": grpc.unary_unary_rpc_method_handler(one),
        "US": grpc.unary_stream_rpc_method_handler(many),
        "SU": grpc.stream_unary_rpc_method_handler(one),
        "SS": grpc.stream_stream_rpc_method_handler(many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def words() -> AsyncIterator[bytes]:
    yield b"word"


async def answers(channel: grpc.aio.Channel) -> list[bytes]:
    """Of one call of each kind."""
    with rpc_errors("server"):
        got = [await channel.unary_unary(f"/{SERVICE}/UU")(b"", timeout=10)]
        got += [word async for word in channel.unary_stream(f"/{SERVICE}/US")(b"", timeout=10)]
        got.append(await channel.stream_unary(f"/{SERVICE}/SU")(words(), timeout=10))
        return got + [word async for word in channel.stream_stream(f"/{SERVICE}/SS")(words(), timeout=10)]


@pytest.mark.parametrize("kind", ["UU", "US", "SU", "SS"])
async def test_a_call_of_any_kind_needs_the_token(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLSERVE_TOKEN", TOKEN)
    async with serving(add_words, service_names=[SERVICE]) as server:
        async with open_channel(server.address) as channel:
            assert await answers(channel) == [b"one"] * 4
        for wrong in (OTHER, ""):
            monkeypatch.setenv("RLSERVE_TOKEN", wrong)
            async with open_channel(server.address) as channel:
                request: Any = b"" if kind.startswith("U") else words()
                method = {
                    "UU": channel.unary_unary,
                    "US": channel.unary_stream,
                    "SU": channel.stream_unary,
                    "SS": channel.stream_stream,
                }[kind](f"/{SERVICE}/{kind}")
                refused = pytest.raises(InvalidRequest, match="set RLSERVE_TOKEN or RLSERVE_TOKEN_FILE")
                with refused as error, rpc_errors("server"):
                    answer = method(request, timeout=10)
                    await (answer if kind.endswith("U") else answer.read())
                assert TOKEN not in str(error.value)
                check = health_pb2_grpc.HealthStub(channel).Check
                found = await call(check, health_pb2.HealthCheckRequest(), deadline_seconds=10, what="server")
                assert found.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_token_is_harmless_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(add_words, service_names=[SERVICE]) as server:
        monkeypatch.setenv("RLSERVE_TOKEN", TOKEN)
        async with open_channel(server.address) as channel:
            assert await answers(channel) == [b"one"] * 4


def test_a_token_comes_from_one_place_and_has_a_form(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert run_token({}) == ""
    assert run_token({"RLSERVE_TOKEN_FILE": str(file)}) == run_token({"RLSERVE_TOKEN": TOKEN}) == TOKEN
    with pytest.raises(ConfigError, match="set one of them"):
        run_token({"RLSERVE_TOKEN": TOKEN, "RLSERVE_TOKEN_FILE": str(file)})
    with pytest.raises(ConfigError, match="cannot be read"):
        run_token({"RLSERVE_TOKEN_FILE": str(tmp_path / "none")})
    for wrong in ("short", "with a space in the middle", "x" * 513):
        with pytest.raises(ConfigError, match=r"RLSERVE_TOKEN: has \d+ characters") as error:
            run_token({"RLSERVE_TOKEN": wrong})
        assert wrong not in str(error.value)
