"""Addresses on this machine: whether one is taken, which are free, when somebody answers there."""

import asyncio
import errno
import socket

from rlserve.rpc.tls import is_loopback

POLL_SECONDS = 0.05
"""Between two tries to connect; any value far below a process's start will do."""


async def answers(address: str) -> None:
    """Return once somebody takes connections at ``address``."""
    host, port = address.rsplit(":", 1)
    while True:
        try:
            # A bare TCP connection: a gRPC channel would back off between its tries and notice a new server late.
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            await asyncio.sleep(POLL_SECONDS)
            continue
        writer.close()
        return


def is_taken(address: str) -> bool:
    """Whether somebody listens at ``address``. Other faults of it are reported by who listens there."""
    host, _, port = address.rpartition(":")
    try:
        # create_server sets SO_REUSEADDR on POSIX, so that only a listener counts, not a connection in TIME_WAIT.
        socket.create_server((host.strip("[]"), int(port))).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def on_host(address: str, host: str) -> str:
    """``address`` with ``host`` in the place of loopback; unchanged without one, or elsewhere."""
    if not host or not is_loopback(address):
        return address
    return f"{f'[{host}]' if ':' in host else host}:{address.rpartition(':')[2]}"


def with_free_port(address: str) -> str:
    """``address`` with port 0 replaced by a free one: a process that is restarted must keep its port."""
    host, _, port = address.rpartition(":")
    # Another process may take the port between this and the hub's bind; start_hub then says that it is taken.
    return f"{host}:{free_port(host)}" if port == "0" else address


def free_port(host: str) -> int:
    """A port of this machine that is free at ``host``."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
