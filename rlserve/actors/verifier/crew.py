"""The pool's workers: started ahead, lent one job at a time, replaced when dead, worn or doubted.

``leased``  waits for: a free slot, then a ready worker. unblocked by: the end of another lease; ``_fill``.
``_fill``   (one task for each missing worker) waits for: a worker to be ready. A failed start is tried again
            after a pause; who waits for a worker meanwhile gets Unavailable after ``start_seconds``, with the cause.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rlserve.actors.verifier.process import WorkerProcess
from rlserve.actors.verifier.traits import VerifierTraits
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import PluginFailed, RlserveError, Unavailable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
BACKOFF_SECONDS = (0.1, 0.5, 2.0, 5.0)


class Crew:
    """``workers`` slots and as many processes, plus spares, all of them able to judge everything."""

    def __init__(
        self,
        verifiers: Mapping[str, Mapping[str, Any]],
        limits: VerifierConfig,
        counts: Counter[str],
        *,
        prepare_all: bool,
    ) -> None:
        self._verifiers = verifiers
        self._limits = limits
        self._counts = counts
        self._slots = asyncio.Semaphore(limits.workers)
        self._ready: deque[WorkerProcess] = deque()
        self._arrived = asyncio.Event()
        self._live: set[WorkerProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._failed_starts = 0
        self._problem = ""
        self.in_use: set[str] = set(verifiers) if prepare_all else set()
        """Verifiers that a new worker prepares before it counts as ready."""
        self.traits: Mapping[str, VerifierTraits] = {}
        """Traits by name, once started."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.pid for worker in self._live]

    @property
    def num_ready(self) -> int:
        """Workers that wait for a job."""
        return len(self._ready)

    async def start(self) -> None:
        """Start all workers and wait for the first.

        Raises Unavailable or DeadlineExceeded when it does not start, PluginFailed when no verifier can be loaded.
        """
        first = await self._start_worker()
        self.traits = first.traits
        broken = [f"{traits.name}: {traits.error}" for traits in first.traits.values() if traits.error]
        if broken and len(broken) == len(first.traits):
            await first.kill()
            raise PluginFailed(f"verifiers: none can be loaded ({'; '.join(broken)})")
        for line in broken:
            logger.error("verifier %s", line)
        self._enter(first)
        for _ in range(self._limits.workers + self._limits.spares - 1):
            self._spawn(self._fill())

    async def stop(self) -> None:
        """Kill every worker and wait until they are reaped."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in list(self._live)))

    @asynccontextmanager
    async def leased(self) -> AsyncIterator[WorkerProcess]:
        """A ready worker for the length of the block. Raises Unavailable after ``start_seconds``.

        Who doubts it kills it inside the block; a worn one is replaced afterwards.
        """
        async with self._slots:
            worker = await self._take()
            try:
                yield worker
            finally:
                if self._is_worn(worker):
                    self._counts["recycled"] += 1
                    self._spawn(worker.kill())
                elif worker.alive:
                    self._offer(worker)

    async def _take(self) -> WorkerProcess:
        deadline, failed = time.monotonic() + self._limits.start_seconds, self._failed_starts
        while True:
            while self._ready:
                worker = self._ready.popleft()
                if worker.alive:
                    return worker
                self._spawn(worker.kill())
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._arrived.wait()
            # On a busy machine a start may take long; only one that failed is a reason to give up.
            if time.monotonic() >= deadline and self._failed_starts > failed:
                seconds = self._limits.start_seconds
                raise Unavailable(f"verifier workers: none was ready within {seconds:g} s: {self._problem}") from None

    def _is_worn(self, worker: WorkerProcess) -> bool:
        if not worker.alive:
            return False
        if worker.completions >= self._limits.recycle_completions:
            return True
        return worker.resident_bytes() - worker.start_bytes > self._limits.recycle_growth_bytes

    def _offer(self, worker: WorkerProcess) -> None:
        self._ready.append(worker)
        self._arrived.set()

    def _enter(self, worker: WorkerProcess) -> None:
        self._live.add(worker)
        if worker.alive:
            self._offer(worker)
        else:  # it died before anybody knew it
            self._left(worker)

    def _left(self, worker: WorkerProcess) -> None:
        """Called once for each worker that exited: another one takes its place."""
        if worker not in self._live:
            return
        self._live.discard(worker)
        if worker in self._ready:
            self._ready.remove(worker)
        if not self._closing:
            self._spawn(self._fill())

    async def _fill(self) -> None:
        """Start one worker, with pauses between failed attempts."""
        for attempt in itertools.count():
            try:
                self._enter(await self._start_worker())
                return
            except (RlserveError, OSError) as error:
                self._failed_starts += 1
                self._problem = str(error)
                pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                logger.error("verifier worker: cannot start (%s); next attempt in %g s", error, pause)
                await asyncio.sleep(pause)

    async def _start_worker(self) -> WorkerProcess:
        self._counts["started"] += 1
        return await WorkerProcess.start(
            self._verifiers,
            memory_bytes=self._limits.memory_bytes,
            prepare=self.in_use & set(self._verifiers),
            start_seconds=self._limits.start_seconds,
            on_exit=self._left,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
