"""The hub process: serve until SIGTERM or SIGINT."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rlserve.actors.hub.memory import HubMemory
from rlserve.actors.hub.registry import Registry
from rlserve.actors.hub.service import SERVICE_NAME, HubService
from rlserve.actors.stop import stop_signals
from rlserve.actors.stop_deadline import STOP_SECONDS, end_within
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import RunningServer, serving

logger = logging.getLogger(__name__)

TICKS_PER_TIMEOUT = 10
"""A dead actor is noticed at most a tenth of the timeout late."""
MAX_REQUEST_BYTES = 2**18
"""The largest request is an environment's spec with its schema, a few KiB."""


async def run_hub(
    address: str, heartbeat_timeout_seconds: float, ready: Callable[[str], None], memory: HubMemory | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    ``ready`` is called once, with the address that other actors dial. Raises ConfigError or Unavailable when
    ``address`` cannot be served.
    """
    with stop_signals() as stopped:
        async with hub_server(address, heartbeat_timeout_seconds, memory) as server:
            ready(server.address)
            await stopped.wait()
            logger.info("hub stops")
            # Before the server stops, since a call that does not end can hang that.
            end_within(STOP_SECONDS, "hub", loop=asyncio.get_running_loop())
    return 0


@asynccontextmanager
async def hub_server(
    address: str, heartbeat_timeout_seconds: float, memory: HubMemory | None = None
) -> AsyncIterator[RunningServer]:
    """A hub that answers until the block ends; it goes on with what an earlier one left in ``memory``."""
    registry = Registry(heartbeat_timeout_seconds=heartbeat_timeout_seconds, clock=time.monotonic, wall_clock=time.time)
    service = HubService(registry, memory)
    await service.restore()
    async with serving(
        service.add_to,
        address=address,
        service_names=[SERVICE_NAME],
        options=ServerOptions(max_request_bytes=MAX_REQUEST_BYTES),
    ) as server:
        ticking = asyncio.create_task(_tick(registry, service))
        try:
            yield server
        finally:
            service.close()
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking


async def _tick(registry: Registry, service: HubService) -> None:
    while True:
        # Before refresh, which removes the environments of the actors that expire here.
        for actor in registry.tick():
            logger.warning("%s %s: no heartbeat; it died or is cut off", actor.kind, actor.actor_id)
        service.refresh()
        await asyncio.sleep(registry.heartbeat_timeout_seconds / TICKS_PER_TIMEOUT)
