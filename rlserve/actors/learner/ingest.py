"""Takes the groups of all streams in, many at a time: one thread, one lock, one commit and one wake a batch.

``run``  waits for: a group of any stream. unblocked by: ``put``. While a batch is read, checked and written in a
         thread, the next one gathers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.intake import Decision, Offer
from rlserve.errors import LimitExceeded, StateCorrupt

logger = logging.getLogger(__name__)

MAX_BATCH = 256
GATHER_SECONDS = 0.01
"""So long a batch waits for more: a commit, a change of threads and a look for leases cost more than many groups."""
MAX_BATCH_BYTES = 16 * 2**20
"""A batch holds at least one group, whatever its size."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A group, and whom to tell."""

    offer: Offer
    done: Callable[[Decision], None]
    """Called in the event loop once the group is durable or refused."""
    failed: Callable[[Exception], None]
    """Called instead when nothing could be decided."""


class Ingest:
    """One queue in front of an inbox. For one event loop; ``run`` it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._waiting: deque[Delivery] = deque()
        self._some = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Take a group in soon, in order of arrival."""
        self._waiting.append(delivery)
        self._some.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._some.wait()
            if len(self._waiting) < MAX_BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            batch = self._next_batch()
            try:
                decisions = await asyncio.to_thread(self._inbox.offer_many, [delivery.offer for delivery in batch])
            except (LimitExceeded, StateCorrupt) as error:
                # A full disk, a damaged store: workers would offer the same for ever. The run ends, and says why.
                logger.error("%s: %s", type(error).__name__, error)
                self._inbox.close(str(error))
                _fail(batch, error)
                continue
            except Exception as error:
                logger.exception("%d groups could not be taken in", len(batch))
                _fail(batch, error)
                continue
            for delivery, decision in zip(batch, decisions, strict=True):
                delivery.done(decision)

    def _next_batch(self) -> list[Delivery]:
        batch: list[Delivery] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH and (not batch or size < MAX_BATCH_BYTES):
            batch.append(self._waiting.popleft())
            size += len(batch[-1].offer.payload)
        if not self._waiting:
            self._some.clear()
        return batch


def _fail(batch: Sequence[Delivery], error: Exception) -> None:
    for delivery in batch:
        delivery.failed(error)
