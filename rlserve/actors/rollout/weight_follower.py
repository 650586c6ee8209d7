"""Keeps the engine on the newest published weights while it generates.

Waits for: the learner's announcement. Unblocked by: every optimizer step. Fetching and staging run beside generation;
only the swap itself holds it, for milliseconds.
"""

import asyncio
import contextlib
import logging
import time

from rlserve.engines.base import RolloutEngine, SwapReport
from rlserve.errors import DeadlineExceeded, Unavailable, UnknownName, WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.weight_sync.subscriber import Confirmation, Subscriber

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Pause after a version that could not be fetched, before subscribing again. The newest version then comes first."""


class WeightFollower:
    """Takes announced versions, newest first, and swaps them in.

    Example::

        follower = WeightFollower(engine, subscriber)
        following = asyncio.create_task(follower.run())
        await follower.caught_up()    # the engine now serves what the learner published last
    """

    def __init__(self, engine: RolloutEngine, subscriber: Subscriber) -> None:
        self._engine = engine
        self._subscriber = subscriber
        self._caught_up = asyncio.Event()
        self._served: Confirmation | None = None
        self.num_updates = 0
        self.digest = ""

    async def run(self) -> None:
        """Follow announcements until cancelled. Raises WeightsMismatch, EngineDied, LimitExceeded."""
        while True:
            async with contextlib.aclosing(self._subscriber.versions()) as versions:
                async for policy in versions:
                    if not await self._follow(policy):
                        break
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, policy: PolicyVersion) -> bool:
        """Serve an announced version and confirm it; False when the subscription must be opened again."""
        try:
            # By digest, too: a resumed learner may publish a number again with other weights.
            if self._served is None or (policy.version, policy.digest) != (self._served.version, self._served.digest):
                self._served = await self._update(policy)
            # Also when nothing changed: a restarted learner waits for confirmations of the version it announces.
            await self._subscriber.confirm(self._served)
        except UnknownName:
            logger.info("version %d was replaced before it was fetched; waiting for the newer one", policy.version)
        except (Unavailable, DeadlineExceeded) as error:
            logger.warning("version %d: %s; subscribing again", policy.version, error)
            return False
        else:
            self._caught_up.set()
        return True

    async def caught_up(self) -> None:
        """Return once the engine serves what the learner published last."""
        await self._caught_up.wait()

    async def _update(self, policy: PolicyVersion) -> Confirmation:
        announced = time.monotonic()
        # A delta starts from a version of this learner; the start checkpoint may not be one.
        held = self._engine.version if self.num_updates else None
        try:
            report = await self._stage_and_swap(policy, held)
        # A damaged shared file shows here, where the engine digests it. The last carrier checks every digest itself.
        except WeightsMismatch as error:
            logger.warning("version %d was refused (%s); asking for a full copy", policy.version, error)
            report = await self._stage_and_swap(policy, None, last_resort=True)
        self.num_updates += 1
        self.digest = report.digest
        seconds = time.monotonic() - announced
        logger.info(
            "serves version %d, %.3f s after its announcement: came by %s, staged in %.3f s, stalled for %.3f s",
            report.version,
            seconds,
            self._subscriber.counts.last,
            report.stage_seconds,
            report.stall_seconds,
        )
        return Confirmation(
            version=report.version,
            digest=report.digest,
            stall_seconds=report.stall_seconds,
            update_seconds=seconds,
            running_sequences=report.running_sequences,
        )

    async def _stage_and_swap(
        self, policy: PolicyVersion, held: int | None, *, last_resort: bool = False
    ) -> SwapReport:
        path = await self._subscriber.fetch(policy, held=held, last_resort=last_resort)
        memory = self._subscriber.memory_of(path)
        # An engine that never asked for memory need not know of it.
        await (self._engine.stage(policy, path, memory) if memory else self._engine.stage(policy, path))
        return await self._engine.swap(policy)
