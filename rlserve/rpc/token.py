"""The token of a run: a shared secret that every call carries, and every server with a token asks for.

It says that a caller belongs to the run; TLS keeps it, and all else, from being read on the way. It comes from the
environment, never from a command line, which every user of a host can list.
"""

import functools
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from rlserve.errors import ConfigError

TOKEN, TOKEN_FILE = "RLSERVE_TOKEN", "RLSERVE_TOKEN_FILE"
_HEADER = "authorization"
_FORM = re.compile(r"[\x21-\x7e]{16,512}")
"""At least 96 bits, written in base64; visible ASCII, since gRPC's metadata takes no other."""
_HEALTH = "/grpc.health.v1.Health/"
"""Probes of a cluster carry no metadata, and learn no more than whether the server serves."""


def run_token(environ: Mapping[str, str] = os.environ) -> str:
    """The token from RLSERVE_TOKEN or the file RLSERVE_TOKEN_FILE; empty without both. Raises ConfigError."""
    token, file = environ.get(TOKEN, ""), environ.get(TOKEN_FILE, "")
    if token and file:
        raise ConfigError(f"{TOKEN}: is set, and {TOKEN_FILE} too; set one of them")
    if not file:
        return checked(token, TOKEN) if token else ""
    try:
        return checked(Path(file).read_text(encoding="ascii").strip(), TOKEN_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{TOKEN_FILE}: {file!r} cannot be read ({error}); give a file with the token") from None


def checked(token: str, what: str) -> str:
    """``token``, if it has the form of one. Raises ConfigError that names ``what`` and does not show it."""
    if not _FORM.fullmatch(token):
        raise ConfigError(
            f"{what}: has {len(token)} characters; give 16 to 512 letters, digits and signs without spaces, for "
            "example of `openssl rand -base64 24`"
        )
    return token


class TokenCheck(grpc.aio.ServerInterceptor):
    """Answers calls without the token with UNAUTHENTICATED; health checks need none."""

    def __init__(self, token: str) -> None:
        self._expected = _header(token).encode()

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler itself, or one of its kind that refuses."""
        handler = await continuation(details)
        if handler is None or str(details.method).startswith(_HEALTH) or self._is_shown(details):
            return handler
        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        return handler._replace(**{kind: _refuse for kind in kinds if getattr(handler, kind) is not None})

    def _is_shown(self, details: grpc.HandlerCallDetails) -> bool:
        shown = next((value for key, value in details.invocation_metadata or () if key == _HEADER), "")
        given = shown if isinstance(shown, bytes) else shown.encode()
        # In constant time: how long it takes must not tell how many characters are right.
        return hmac.compare_digest(given, self._expected)


async def _refuse(request: Any, context: Any) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"token: this run asks every caller for its token, and the call has none or another; set {TOKEN} or "
        f"{TOKEN_FILE} to the one with which the run was started",
    )


class TokenChannel(grpc.aio.Channel):
    """A channel whose calls carry the token.

    No client interceptor, which would wrap each message of a stream once more; no call credentials, which gRPC sends
    over TLS alone, whereas the actors of one machine use plain connections.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = ((_HEADER, _header(token)),)

    async def __aenter__(self) -> "TokenChannel":
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        await self._channel.__aexit__(exc_type, exc_val, exc_tb)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._carrying(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._carrying(self._channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._carrying(self._channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._carrying(self._channel.stream_stream(*arguments, **options))

    def _carrying(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(method, metadata=self._metadata)


def _header(token: str) -> str:
    return f"Bearer {token}"
