"""Registers an actor at the hub and keeps sending heartbeats.

``_send_heartbeats`` waits for: a third of the heartbeat timeout, each time. It re-registers if the hub forgot the
actor, retries while the hub is away, and ends only when a newer process takes the actor's id.
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
"""Pause between attempts while the hub starts: short beside the seconds that an actor's own start takes."""
LEAVE_SECONDS = 1.0
"""Longest wait for the goodbye at the end; without it, the registration expires by itself."""


class Hub(Protocol):
    """The part of HubClient that a registration uses."""

    address: str

    async def register(self, actor: Actor) -> tuple[str, float]: ...

    async def heartbeat(self, registration_id: str, status: Mapping[str, str]) -> None: ...

    async def deregister(self, registration_id: str) -> None: ...

    async def register_environment(
        self, spec: EnvironmentSpec, *, registration_id: str = "", again: bool = False
    ) -> None: ...


@dataclass(slots=True)
class Registration:
    """A registration at the hub, and whether it still holds."""

    registration_id: str
    heartbeat_timeout_seconds: float
    renewals: int = 0
    """Heartbeats that the hub accepted."""
    times_registered: int = 1
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a newer process took the actor's id or place: this one should stop."""
    problem: str = ""
    """The hub's message about that process, once ``replaced`` is set."""


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
    """Keep an actor registered; the arguments are those of ``HubClient.registered``."""
    specs = [replace(spec, address=spec.address or actor.address) for spec in environments]
    registration = await _register_first(hub, actor, specs, start_seconds, again)
    keeping = asyncio.create_task(_send_heartbeats(hub, actor, specs, status, registration))
    try:
        yield registration
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        with contextlib.suppress(RlserveError, TimeoutError):
            await asyncio.wait_for(hub.deregister(registration.registration_id), LEAVE_SECONDS)


async def _register_first(
    hub: Hub, actor: Actor, specs: Sequence[EnvironmentSpec], start_seconds: float, again: bool
) -> Registration:
    problem: Exception | None = None
    try:
        async with asyncio.timeout(start_seconds):
            while True:
                try:
                    return Registration(*await _register(hub, actor, specs, again=again))
                # The hub refuses this actor: asking again gets the same answer.
                except InvalidRequest:
                    raise
                # Also NotReady: the place of a learner that died is free once its registration has expired.
                except RlserveError as error:
                    problem = error
                await asyncio.sleep(RETRY_SECONDS)
    except TimeoutError:
        raise DeadlineExceeded(
            f"{actor.actor_id}: could not register within {start_seconds:g} s ({problem}); is the hub at "
            f"{hub.address} up?"
        ) from problem


async def _register(
    hub: Hub, actor: Actor, specs: Sequence[EnvironmentSpec], *, again: bool = False
) -> tuple[str, float]:
    registration_id, heartbeat_timeout_seconds = await hub.register(actor)
    for spec in specs:
        await hub.register_environment(spec, registration_id=registration_id, again=again)
    return registration_id, heartbeat_timeout_seconds


async def _send_heartbeats(
    hub: Hub,
    actor: Actor,
    specs: Sequence[EnvironmentSpec],
    status: Callable[[], Mapping[str, str]],
    registration: Registration,
) -> None:
    while True:
        # A third: one heartbeat may be lost, and the next one late, before the registration expires.
        await asyncio.sleep(registration.heartbeat_timeout_seconds / 3)
        try:
            await _renew(hub, actor, specs, status, registration)
        except RlserveError as error:
            # NotReady: this registration expired and another learner has taken its place.
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
        await hub.heartbeat(registration.registration_id, _read_status(status))
        registration.renewals += 1
    except UnknownName:
        # Not ``again``: what an operator keeps out stays out.
        registration.registration_id, registration.heartbeat_timeout_seconds = await _register(hub, actor, specs)
        registration.times_registered += 1
        logger.warning("%s: the hub had forgotten this actor; registered again", actor.actor_id)


def _read_status(status: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    try:
        return status()
    except Exception:
        logger.exception("status: could not be read; sending none")  # an actor must not die of its status line
        return {}
