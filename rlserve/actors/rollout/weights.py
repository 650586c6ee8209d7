"""Keeps the engine on the newest published weights, while it generates.

Waits for: the learner's announcement. Unblocked by: every optimizer step. Fetch and staging go on beside
generation; only the swap itself holds it, for milliseconds.
"""

import asyncio
import logging
import time

from rlserve.actors.rollout.engine import RolloutEngine, SwapReport
from rlserve.errors import DeadlineExceeded, Unavailable, UnknownName, WeightsMismatch
from rlserve.policy.subscriber import Confirmation, Subscriber
from rlserve.records import PolicyVersion

logger = logging.getLogger(__name__)


class WeightFollower:
    """Takes announced versions, newest first, and swaps them in."""

    def __init__(self, engine: RolloutEngine, subscriber: Subscriber) -> None:
        self._engine = engine
        self._subscriber = subscriber
        self._caught_up = asyncio.Event()
        self.num_updates = 0
        self.digest = ""

    async def run(self) -> None:
        """Follow announcements until cancelled."""
        async for policy in self._subscriber.versions():
            if policy.version <= self._engine.version and self._caught_up.is_set():
                continue
            try:
                await self._update(policy)
            except (UnknownName, FileNotFoundError):
                logger.info("version %d was gone before it was fetched; a newer one is announced", policy.version)
            except (Unavailable, DeadlineExceeded) as error:
                logger.warning("version %d: %s", policy.version, error)
            else:
                self._caught_up.set()

    async def caught_up(self) -> None:
        """Returns once the engine serves what the learner published last."""
        await self._caught_up.wait()

    async def _update(self, policy: PolicyVersion) -> None:
        announced = time.monotonic()
        held = self._engine.version if self.num_updates else None
        try:
            report = await self._stage_and_swap(policy, held)
        except WeightsMismatch as error:
            logger.warning("version %d was refused (%s); asking for a full copy", policy.version, error)
            report = await self._stage_and_swap(policy, None)
        self.num_updates += 1
        self.digest = report.digest
        await self._subscriber.confirm(
            Confirmation(
                version=report.version,
                digest=report.digest,
                stall_seconds=report.stall_seconds,
                update_seconds=time.monotonic() - announced,
                running_sequences=report.running_sequences,
            )
        )

    async def _stage_and_swap(self, policy: PolicyVersion, held: int | None) -> SwapReport:
        path = await self._subscriber.fetch(policy, held=held)
        await self._engine.stage(policy, path)
        return await self._engine.swap(policy)
