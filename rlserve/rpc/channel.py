"""Channels to other actors, and unary calls that raise the errors of :mod:`rlserve.errors`.

Every call has a deadline; when it passes, the error names the peer that did not answer.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from rlserve.errors import DeadlineExceeded
from rlserve.rpc.codec.bounds import check_bounds
from rlserve.rpc.options import ChannelOptions
from rlserve.rpc.status import error_from_rpc, raised_by_server
from rlserve.rpc.tls import TlsFiles
from rlserve.rpc.token import TokenChannel, run_token

Response = TypeVar("Response")
Method = Callable[..., Awaitable[Response]]
"""A unary method of a stub, e.g. ``HubServiceStub(channel).Register``."""


def open_channel(
    address: str, *, tls: TlsFiles | None = None, options: ChannelOptions | None = None
) -> grpc.aio.Channel:
    """Open a channel to ``host:port``; it connects on the first call and reconnects by itself.

    Close it with ``await channel.close()`` or use it as an async context manager. TLS comes from ``tls`` or,
    when that is None, from the environment (:mod:`rlserve.rpc.tls`); so does the token that its calls carry
    (:mod:`rlserve.rpc.token`). Call it inside a running event loop.
    """
    arguments = (options or ChannelOptions()).arguments()
    tls = tls or TlsFiles.from_environment()
    token = run_token()
    if tls is None:
        channel = grpc.aio.insecure_channel(address, arguments)
    else:
        channel = grpc.aio.secure_channel(address, tls.channel_credentials(), arguments)
    return TokenChannel(channel, token) if token else channel


async def call(
    method: Method[Response],
    request: Any,
    *,
    deadline_seconds: float,
    what: str,
    wait_for_ready: bool = False,
) -> Response:
    """Make one unary call. ``what`` names the peer in errors, e.g. ``"hub at 10.0.0.1:50051"``.

    With ``wait_for_ready`` the call waits until the deadline for a peer that cannot be reached; without, it raises
    Unavailable at once. Raises the RlserveError that the server raised, or DeadlineExceeded naming the peer.
    """
    with rpc_errors(what, deadline_seconds=deadline_seconds):
        response = await method(request, timeout=deadline_seconds, wait_for_ready=wait_for_ready)
    # Outside the block: an answer out of bounds is the peer's fault and already an RlserveError.
    if isinstance(response, Message):
        check_bounds(response)
    return response


@contextmanager
def rpc_errors(what: str, *, deadline_seconds: float | None = None) -> Iterator[None]:
    """Turn a gRPC error raised in the block into an RlserveError; for streams and unusual calls."""
    try:
        yield
    except grpc.RpcError as error:
        # A server may itself have waited for a third actor: its DeadlineExceeded names that one and is passed on.
        ours = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not raised_by_server(error)
        if ours and deadline_seconds is not None:
            raise DeadlineExceeded(f"{what}: no answer within {deadline_seconds:g} s") from error
        raise error_from_rpc(error, what=what) from error
