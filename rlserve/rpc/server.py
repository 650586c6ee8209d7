"""Runs a gRPC server: binds, reports the port, answers health checks and reflection, stops gracefully."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rlserve.errors import Unavailable
from rlserve.rpc.descriptors import raise_limit
from rlserve.rpc.intercept import ErrorCounts, ErrorsToStatus
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.tls import TlsFiles, check_bind, host_of, insecure_allowed
from rlserve.rpc.token import TokenCheck, run_token

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""Time in which gRPC must end the calls that outlived the grace, which takes milliseconds. Any value of this size will
do."""
_WILDCARDS = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that accepts calls."""

    address: str
    """``host:port`` for clients."""
    port: int
    errors: ErrorCounts
    """Failed calls by (method, status name); grows while the server runs."""
    _health: health.aio.HealthServicer
    _service_names: tuple[str, ...]

    async def set_serving(self, serving: bool) -> None:
        """Set the result of health checks; the server answers calls either way."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._service_names):
            await self._health.set(name, status)


@asynccontextmanager
async def serving(
    add_services: Callable[[grpc.aio.Server], None],
    *,
    address: str = "127.0.0.1:0",
    service_names: Sequence[str],
    options: ServerOptions | None = None,
    tls: TlsFiles | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve until the block ends; then let running calls finish for the grace period, and cancel those that are left.

    For example::

        names = [pb.DESCRIPTOR.services_by_name["HubService"].full_name]
        async with serving(lambda s: add_HubServiceServicer_to_server(hub, s), service_names=names) as server:
            server.address                     # "127.0.0.1:40123": it accepts calls, health checks answer SERVING
            await server.set_serving(False)    # health checks answer NOT_SERVING, calls still run
        # Stopped: no call runs and the port is free.

    ``add_services`` adds the servicers; ``service_names`` are their full names, for health checks and reflection. Port
    0 in ``address`` takes a free one. TLS comes from ``tls`` or, when that is None, from the environment
    (:mod:`rlserve.rpc.tls`); so does the token that callers must show (:mod:`rlserve.rpc.token`).

    Raises ConfigError for an address beyond this machine without TLS, Unavailable when it cannot be bound.
    """
    options = options or ServerOptions()
    tls = tls or TlsFiles.from_environment()
    check_bind(address, tls=tls, insecure=options.insecure or insecure_allowed())
    raise_limit()  # before options.arguments(), which takes its share of the limit
    interceptor = ErrorsToStatus()
    token = run_token()
    server = grpc.aio.server(
        # The token first: nothing of a stranger's request is parsed.
        interceptors=[TokenCheck(token), interceptor] if token else [interceptor],
        options=options.arguments(),
        maximum_concurrent_rpcs=options.max_concurrent_rpcs,
    )
    add_services(server)
    checks = _add_health_and_reflection(server, service_names)
    port = _bind(server, address, tls)
    running = RunningServer(
        address=_advertised(address, port, options.advertised_host),
        port=port,
        errors=interceptor.errors,
        _health=checks,
        _service_names=tuple(service_names),
    )
    await server.start()
    await running.set_serving(True)
    try:
        yield running
    finally:
        # In a task with a limit of its own: server.stop may never return while a client holds a call open, and the
        # process must end all the same.
        stopping = asyncio.create_task(_stop(server, checks, options.stop_grace_seconds))
        done, _ = await asyncio.wait({stopping}, timeout=options.stop_grace_seconds + STOP_SECONDS)
        if not done:
            stopping.cancel()
            logger.warning(
                "server at %s: did not stop within %g s, most likely because a client holds a call open; it ends with "
                "this process",
                running.address,
                options.stop_grace_seconds + STOP_SECONDS,
            )


async def _stop(server: grpc.aio.Server, checks: health.aio.HealthServicer, grace_seconds: float) -> None:
    await checks.enter_graceful_shutdown()  # first, so that no client that asks sends new work during the grace
    await server.stop(grace_seconds)


def _add_health_and_reflection(server: grpc.aio.Server, service_names: Sequence[str]) -> health.aio.HealthServicer:
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return checks


def _bind(server: grpc.aio.Server, address: str, tls: TlsFiles | None) -> int:
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, tls.server_credentials())
    except RuntimeError as error:
        raise Unavailable(f"address: {address!r} cannot be bound ({error}); take a free port, or 0 for any") from None


def _advertised(address: str, port: int, host: str) -> str:
    if address.startswith("unix:"):
        return address
    host = host or host_of(address)
    if host in _WILDCARDS:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
