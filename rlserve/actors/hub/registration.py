"""A place in the registry, kept by a heartbeat.

``_keep`` waits for: a third of the lease, each time. A hub that forgot the lease is registered with again, a
hub that is away is tried again for ever; only a newer process under the same id ends it.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from rlserve.errors import DeadlineExceeded, InvalidRequest, NotReady, RlserveError, UnknownName
from rlserve.records import Actor, EnvironmentSpec

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.25
LEAVE_SECONDS = 1.0


class Hub(Protocol):
    """What a registration needs of a hub's client."""

    address: str

    async def register(self, actor: Actor) -> tuple[str, float]: ...

    async def heartbeat(self, lease_id: str, status: Mapping[str, str]) -> None: ...

    async def deregister(self, lease_id: str) -> None: ...

    async def register_environment(self, spec: EnvironmentSpec, *, lease_id: str = "", again: bool = False) -> None: ...


@dataclass(slots=True)
class Registration:
    """A lease and what became of it."""

    lease_id: str
    lease_seconds: float
    renewals: int = 0
    """Heartbeats that the hub took."""
    times_registered: int = 1
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a newer process took the actor's id or place: this one should stop."""
    problem: str = ""
    """Who that is, once it is set."""


@asynccontextmanager
async def registered(
    hub: Hub,
    actor: Actor,
    *,
    status: Callable[[], Mapping[str, str]],
    environments: Sequence[EnvironmentSpec],
    start_seconds: float,
    again: bool = False,
) -> AsyncIterator[Registration]:
    """See :meth:`rlserve.actors.hub.client.HubClient.registered`."""
    specs = [replace(spec, address=spec.address or actor.address) for spec in environments]
    registration = await _first(hub, actor, specs, start_seconds, again)
    keeping = asyncio.create_task(_keep(hub, actor, specs, status, registration))
    try:
        yield registration
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        with contextlib.suppress(RlserveError, TimeoutError):
            await asyncio.wait_for(hub.deregister(registration.lease_id), LEAVE_SECONDS)


async def _first(
    hub: Hub, actor: Actor, specs: Sequence[EnvironmentSpec], start_seconds: float, again: bool
) -> Registration:
    problem: Exception | None = None
    try:
        async with asyncio.timeout(start_seconds):
            while True:
                try:
                    return Registration(*await _enter(hub, actor, specs, again=again))
                except InvalidRequest:
                    raise
                except RlserveError as error:
                    problem = error
                await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError:
        raise DeadlineExceeded(
            f"{actor.actor_id}: could not register within {start_seconds:g} s ({problem}); is the hub at "
            f"{hub.address} up?"
        ) from problem


async def _enter(hub: Hub, actor: Actor, specs: Sequence[EnvironmentSpec], *, again: bool = False) -> tuple[str, float]:
    lease_id, lease_seconds = await hub.register(actor)
    for spec in specs:
        await hub.register_environment(spec, lease_id=lease_id, again=again)
    return lease_id, lease_seconds


async def _keep(
    hub: Hub,
    actor: Actor,
    specs: Sequence[EnvironmentSpec],
    status: Callable[[], Mapping[str, str]],
    registration: Registration,
) -> None:
    while True:
        await asyncio.sleep(registration.lease_seconds / 3)
        try:
            await _renew(hub, actor, specs, status, registration)
        except RlserveError as error:
            # A lease that was lost and another learner in its place are told as NotReady.
            if isinstance(error, NotReady) or (isinstance(error, InvalidRequest) and error.reason == "replaced"):
                registration.problem = str(error)
                logger.error("%s: %s", actor.actor_id, error)
                registration.replaced.set()
                return
            logger.warning("%s: no heartbeat (%s); trying again", actor.actor_id, error)


async def _renew(
    hub: Hub,
    actor: Actor,
    specs: Sequence[EnvironmentSpec],
    status: Callable[[], Mapping[str, str]],
    registration: Registration,
) -> None:
    try:
        await hub.heartbeat(registration.lease_id, _asked(status))
        registration.renewals += 1
    except UnknownName:
        registration.lease_id, registration.lease_seconds = await _enter(hub, actor, specs)
        registration.times_registered += 1
        logger.warning("%s: the hub had forgotten the lease; registered again", actor.actor_id)


def _asked(status: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    try:
        return status()
    except Exception:
        logger.exception("status: could not be told")  # a status line is not worth an actor's life
        return {}
