"""Follows the hub's registered environments during a run.

``follow``  waits for: LOOK_SECONDS, then the hub's answer (its deadline is the client's). Ends when cancelled.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.unserved import Unserved
from rlserve.actors.learner.leases.catalogue import Catalogue, Change
from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.errors import RlserveError
from rlserve.observability.events import EventLog
from rlserve.records import ActorKind

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""A new environment joins within this; one call a second costs the hub nothing."""


class EnvironmentFollower:
    """Updates the inbox's mixture to the registered environments, at the levels of the curriculum."""

    def __init__(
        self,
        hub: HubClient,
        inbox: Inbox,
        configured: Sequence[MixtureEntry],
        events: EventLog,
        curriculum: Curriculum | None = None,
        warn: Callable[..., None] = lambda message, **fields: logger.warning("%s", message),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._inbox = inbox
        self._events = events
        self._clock = clock
        self._curriculum = curriculum or Curriculum(())
        self._catalogue = Catalogue(configured)
        self._unserved = Unserved([entry.environment for entry in configured], warn)
        self._mixture = inbox.mixture
        self._lost: dict[str, float] = {}
        self._problem = ""

    @property
    def message(self) -> str:
        """One line for ``rlserve status``: the mixture, environments that left, and what no server offers."""
        drawn = ", ".join(f"{i.environment} ({i.weight:g})" for i in self._catalogue.present)
        lost = ", ".join(f"{name} {self._clock() - since:.0f} s ago" for name, since in self._lost.items())
        parts = (f"draws from {drawn}", f"lost {lost}" if lost else "", self._unserved.message, self._problem)
        return "; ".join(part for part in parts if part)

    async def follow(self) -> None:
        """Update every LOOK_SECONDS. While the hub does not answer the mixture stays, and the message says so."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                specs = await self._hub.list_environments()
                verifiers = await self._hub.list_actors(ActorKind.VERIFIER)
            except RlserveError as error:
                if not self._problem:
                    logger.warning("environments: the hub does not answer (%s); the mixture stays as it is", error)
                self._problem = f"the hub at {self._hub.address} does not answer"
                continue
            self._problem = ""
            self._unserved.update(specs, {name for actor in verifiers for name in actor.serves}, self._clock())
            change = self._catalogue.update(specs, self._clock())
            # Every time: the mixture also changes when the curriculum raises a level.
            mixture = self._curriculum.applied(change.mixture)
            if change.joined or change.left or mixture != self._mixture:
                # In a thread: the inbox may wait for its store, and this event loop serves all streams.
                await asyncio.to_thread(self._inbox.mix, mixture)
                self._mixture = mixture
                await self._tell(change)

    async def _tell(self, change: Change) -> None:
        for name in change.joined:
            self._lost.pop(name, None)
            self._events.write("environment_joined", environment=name)
        for name in change.left:
            withdrawn = await asyncio.to_thread(self._inbox.abandon, name)
            self._lost[name] = self._clock()
            self._events.write("environment_left", environment=name, withdrawn=withdrawn)
            logger.warning(
                "environment %r left: it is no longer registered; %d leases of it are dropped", name, withdrawn
            )
        logger.info("environments: %s", self.message)
