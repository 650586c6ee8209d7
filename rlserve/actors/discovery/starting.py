"""Actors that are starting: each announces itself at the hub until it serves, and others wait for as long as it does.

An engine takes minutes to load, compile and capture. Its process ends when that makes no progress (see the engine's own
watch), so that an announcement means progress, and no clock has to guess how long a start may take.

``announced``  waits for: the hub, redialling.                unblocked by: its end, or that of the start.
``follow``     waits for: changes at the hub, redialling.     unblocked by: its cancellation.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.errors import RlserveError
from rlserve.records import Actor, ActorKind, Change

SUFFIX = ".starting"
"""Behind the id of an actor, so that the announcement and the actor itself are two entries of the hub."""
DOING = "doing"
"""Key of the status in which an announcement says what its actor does."""
WAITS = "waits "
"""What an actor does that has not begun with its own start, but waits for another process, begins so."""
NO_ADDRESS = "127.0.0.1:0"
"""Nothing is served yet."""
HUB_SECONDS = 600.0
"""For a hub that starts or restarts meanwhile; afterwards the start goes on unannounced."""


@asynccontextmanager
async def announced(hub_address: str, actor: Actor, doing: Callable[[], str]) -> AsyncIterator[None]:
    """Announce the start of ``actor`` while the block runs; ``doing`` is asked at each heartbeat."""
    if not hub_address:
        yield
        return
    entry = replace(actor, actor_id=f"{actor.actor_id}{SUFFIX}", kind=ActorKind.STARTING, address=NO_ADDRESS)
    task = asyncio.create_task(_announce(hub_address, entry, doing))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _announce(hub_address: str, entry: Actor, doing: Callable[[], str]) -> None:
    # Nothing depends on an announcement but the patience of others: an error in it ends no start.
    with contextlib.suppress(RlserveError):
        async with (
            HubClient(hub_address) as hub,
            hub.registered(entry, status=lambda: {DOING: doing()}, start_seconds=HUB_SECONDS),
        ):
            await asyncio.Event().wait()


def name_of(entry: Actor) -> str:
    """The id of the actor that an announcement is about."""
    return entry.actor_id.removesuffix(SUFFIX)


class Starting:
    """The actors that announce that they start, for any thread to read.

    Example::

        starting = Starting()
        task = asyncio.create_task(starting.follow(hub))
        starting.names()        # {"rollout-0"} until it serves or ends
    """

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def names(self) -> Collection[str]:
        """Ids of the actors that are starting now."""
        return self._names

    async def follow(self, hub: HubClient) -> None:
        """Keep the names up to date until cancelled."""
        async for event in hub.watch(ActorKind.STARTING):
            name = {name_of(event.actor)}
            # Replaced, never changed: another thread may be reading it.
            self._names = self._names | name if event.change is Change.JOINED else self._names - name
