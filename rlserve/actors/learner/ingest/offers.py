"""Offers the groups of all streams to the inbox in batches: one thread, one lock, one commit and one wake for many.

``run``  waits for: a group of any stream. unblocked by: ``put``. While a thread decodes, checks and writes a batch,
         the next one gathers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlserve.actors.learner.ingest.admission import Decision, Offer
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.inbox_thread import InboxThread
from rlserve.errors import LimitExceeded, StateCorrupt, Unavailable

logger = logging.getLogger(__name__)

MAX_BATCH = 256
"""A commit is spread over enough groups by then; in a larger batch the first group would wait longer for its ack."""
GATHER_SECONDS = 0.01
"""A batch waits so long for more groups: commit, change of threads and grant cost more than many groups do."""
MAX_BATCH_BYTES = 16 * 2**20
"""Bounds the memory of decoded groups; a batch holds at least one group, whatever its size."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A group, and the callbacks for its decision."""

    offer: Offer
    done: Callable[[Decision], None]
    """Called in the event loop once the decision is durable."""
    failed: Callable[[Exception], None]
    """Called instead when there is no decision."""


class OfferQueue:
    """A queue in front of the inbox. For one event loop; start ``run`` as a task."""

    def __init__(self, inbox: Inbox, thread: InboxThread) -> None:
        """Leases are granted behind each batch, and sent in the same turn of the event loop as its decisions."""
        self._inbox = inbox
        self._thread = thread
        self._waiting: deque[Delivery] = deque()
        self._some = asyncio.Event()
        self._deciding = False

    @property
    def busy(self) -> bool:
        """Whether leases will be granted soon, whatever comes."""
        return self._deciding or bool(self._waiting)

    def put(self, delivery: Delivery) -> None:
        """Offer a group soon, in order of arrival."""
        self._waiting.append(delivery)
        self._some.set()

    async def run(self) -> None:
        """Offer batches until cancelled."""
        while True:
            await self._some.wait()
            if len(self._waiting) < MAX_BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            self._deciding = True
            await self._decide(self._next_batch())
            self._deciding = False
            self._thread.deliver()

    async def _decide(self, batch: Sequence[Delivery]) -> None:
        offers = [delivery.offer for delivery in batch]
        try:
            # In a thread: decoding and the commit would hold up the event loop, and with it every stream.
            decisions = await self._thread.call(self._offer, offers)
        except (LimitExceeded, StateCorrupt, Unavailable) as error:
            # A full disk, a damaged store, or one whose server stays away. Workers would send the same groups again
            # without end: end the run.
            logger.error("%s: %s", type(error).__name__, error)
            await self._thread.call(self._inbox.close, str(error))
            _fail(batch, error)
        # A defect: it ends the streams of this batch, and the others are served further.
        except Exception as error:
            logger.exception("%d groups got no decision", len(batch))
            _fail(batch, error)
        else:
            for delivery, decision in zip(batch, decisions, strict=True):
                delivery.done(decision)

    def _offer(self, offers: Sequence[Offer]) -> list[Decision]:
        decisions = self._inbox.offer_many(offers)
        self._thread.grant()
        return decisions

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
