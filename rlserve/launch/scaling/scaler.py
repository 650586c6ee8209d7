"""Adds processes to pools and removes them, as asked and as measured.

``run``  looks every LOOK_SECONDS. waits for: a process that leaves, for ``launch.stop_seconds``; room for one that
         joins. Ends when cancelled.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.launch.plan import ProcessSpec
from rlserve.launch.scaling.policy import Autoscaler
from rlserve.launch.scaling.pools import Pools
from rlserve.launch.scaling.readings import Readings
from rlserve.launch.scaling.requests import taken
from rlserve.observability.events import EventLog

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Between two looks for a request: a user waits for it."""
READ_SECONDS = 5.0
"""Between two questions to the hub, whose actors report at their heartbeats."""
EVENT = "scaled"


class Hands(Protocol):
    """What a launcher does for the scaler."""

    def running(self) -> Sequence[ProcessSpec]:
        """The processes that it keeps alive."""
        ...

    async def add(self, specs: Sequence[ProcessSpec]) -> None:
        """Start processes and keep them alive. Raises RlserveError when there is no room."""
        ...

    async def remove(self, name: str) -> None:
        """Stop a process, with ``launch.stop_seconds`` of grace, and keep it stopped."""
        ...


class Scaler:
    """The pools of one run."""

    def __init__(self, config: RunConfig, paths: RunPaths, pools: Pools, hands: Hands) -> None:
        self._paths = paths
        self._pools = pools
        self._hands = hands
        self._events = EventLog(paths.events)
        self._readings = Readings(config)
        self._automatic = {
            pool: Autoscaler(lowest=bounds.min, highest=bounds.max) for pool, bounds in config.launch.scale.items()
        }

    async def run(self, hub_address: str) -> None:
        """Follow requests and readings."""
        self._paths.scale.unlink(missing_ok=True)  # of an earlier life, whose launcher did not take it
        read_at = time.monotonic()
        async with HubClient(hub_address) as hub:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for pool, count in taken(self._paths.scale).items():
                    await self.scale(pool, count, why="asked")
                if self._automatic and time.monotonic() - read_at >= READ_SECONDS:
                    read_at = time.monotonic()
                    # A hub that is away now answers the next time.
                    with contextlib.suppress(RlserveError):
                        await self._follow_readings(hub)

    async def _follow_readings(self, hub: HubClient) -> None:
        for pool, signal in (await self._readings.read(hub)).items():
            if (automatic := self._automatic.get(pool)) is None:
                continue
            count = len(self._names(pool))
            wanted = automatic.look(count, signal, time.monotonic())
            if wanted != count:
                await self.scale(pool, wanted, why=f"measured: {signal}")

    async def scale(self, pool: str, wanted: int, *, why: str) -> None:
        """Bring a pool to ``wanted`` processes, as far as there is room; an event tells the result."""
        before, problem = 0, ""
        try:
            names = self._names(pool)
            before = len(names)
            if wanted > before:
                await self._hands.add(self._pools.more(pool, wanted - before, self._hands.running()))
            # The last to come are the first to go, one after the other: each gives its work to those that stay.
            for name in names[: max(before - wanted, 0)]:
                await self._hands.remove(name)
        except RlserveError as error:
            problem = str(error)
        now = len(self._names(pool)) if before else 0
        logger.info("%s: %d -> %d processes (%s)%s", pool, before, now, why, f": {problem}" if problem else "")
        self._events.note(EVENT, pool=pool, before=before, now=now, asked=wanted, why=why, problem=problem)

    def _names(self, pool: str) -> list[str]:
        return self._pools.names(pool, [spec.name for spec in self._hands.running()])
