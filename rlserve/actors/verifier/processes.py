"""The judge processes of a pool: started ahead, checked out for one job at a time, replaced when dead or worn out.

``checkout``  waits for: a free slot, then a ready process. unblocked by: the end of another checkout; ``_fill``.
``_fill``     (one task per missing process) waits for: a process to be ready. Retries a failed start after a pause;
              a checkout that waits meanwhile raises Unavailable after ``start_seconds``, with the cause.
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

from rlserve.actors.verifier.process import JudgeProcess
from rlserve.actors.verifier.spec import VerifierSpec
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import PluginFailed, RlserveError, Unavailable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How often a waiting checkout looks at its deadline; any value well below ``start_seconds`` will do."""
BACKOFF_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Pauses after failed starts in a row: at once after a lost race for memory, rarely for a lasting defect."""


class ProcessSet:
    """``workers`` slots and as many processes, plus spares; each process can run every verifier.

    Example::

        processes = ProcessSet({"math": {}}, VerifierConfig(workers=2, spares=1), Counter(), prepare_all=True)
        await processes.start()                     # returns when the first of three is ready
        async with processes.checkout() as process:
            async for reply in process.run(job):    # a process killed in here is replaced
                ...
    """

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
        self._ready: deque[JudgeProcess] = deque()
        self._arrived = asyncio.Event()
        self._live: set[JudgeProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._failed_starts = 0
        self._problem = ""
        self.in_use: set[str] = set(verifiers) if prepare_all else set()
        """Verifiers that a new process prepares before it counts as ready."""
        self.specs: Mapping[str, VerifierSpec] = {}
        """Specs by name, once started."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the live processes."""
        return [worker.pid for worker in self._live]

    @property
    def num_ready(self) -> int:
        """Processes without a job."""
        return len(self._ready)

    async def start(self) -> None:
        """Start all processes and wait for the first.

        Raises Unavailable or DeadlineExceeded if it does not start, PluginFailed if no verifier can be loaded.
        """
        # One alone: its specs show whether any verifier can be loaded, before more processes start.
        first = await self._start_worker()
        self.specs = first.specs
        broken = [f"{spec.name}: {spec.error}" for spec in first.specs.values() if spec.error]
        if broken and len(broken) == len(first.specs):
            await first.kill()
            raise PluginFailed(f"verifiers: none can be loaded ({'; '.join(broken)})")
        for line in broken:
            logger.error("verifier %s", line)
        self._enter(first)
        for _ in range(self._limits.workers + self._limits.spares - 1):
            self._spawn(self._fill())

    async def stop(self) -> None:
        """Kill every process and wait until all are reaped."""
        # Before the kills: _left would replace each process that exits.
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in list(self._live)))

    @asynccontextmanager
    async def checkout(self) -> AsyncIterator[JudgeProcess]:
        """A ready process for the duration of the block. Raises Unavailable after ``start_seconds``.

        The caller kills a process that misbehaves; a worn-out one is replaced after the block.
        """
        async with self._slots:
            worker = await self._take()
            try:
                yield worker
            finally:
                if self._is_worn(worker):
                    self._counts["recycled"] += 1
                    # In the background, so that the caller gets its verdicts now. _left replaces it when it exits.
                    self._spawn(worker.kill())
                elif worker.alive:
                    self._offer(worker)

    async def _take(self) -> JudgeProcess:
        deadline, failed = time.monotonic() + self._limits.start_seconds, self._failed_starts
        while True:
            while self._ready:
                worker = self._ready.popleft()
                if worker.alive:
                    return worker
                # Not alive may mean that it sent garbage: kill ends it and closes its pipes.
                self._spawn(worker.kill())
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._arrived.wait()
            # On a busy machine a start may take long; only a failed start is a reason to give up.
            if time.monotonic() >= deadline and self._failed_starts > failed:
                seconds = self._limits.start_seconds
                raise Unavailable(f"judge processes: none was ready within {seconds:g} s: {self._problem}") from None

    def _is_worn(self, worker: JudgeProcess) -> bool:
        if not worker.alive:
            return False
        if worker.completions >= self._limits.recycle_completions:
            return True
        return worker.resident_bytes() - worker.start_bytes > self._limits.recycle_growth_bytes

    def _offer(self, worker: JudgeProcess) -> None:
        self._ready.append(worker)
        self._arrived.set()

    def _enter(self, worker: JudgeProcess) -> None:
        self._live.add(worker)
        if worker.alive:
            self._offer(worker)
        else:  # it died between its greeting and this line, so ``_left`` found it unknown
            self._left(worker)

    def _left(self, worker: JudgeProcess) -> None:
        """Replace a process that exited; called once for each."""
        if worker not in self._live:
            return
        self._live.discard(worker)
        if worker in self._ready:
            self._ready.remove(worker)
        if not self._closing:
            self._spawn(self._fill())

    async def _fill(self) -> None:
        """Start one process, with pauses between failed attempts."""
        for attempt in itertools.count():
            try:
                self._enter(await self._start_worker())
                return
            # OSError: the fork failed, for lack of memory or of process ids.
            except (RlserveError, OSError) as error:
                self._failed_starts += 1
                self._problem = str(error)
                pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                logger.error("judge process: cannot start (%s); next attempt in %g s", error, pause)
                await asyncio.sleep(pause)

    async def _start_worker(self) -> JudgeProcess:
        self._counts["started"] += 1
        return await JudgeProcess.start(
            self._verifiers,
            memory_bytes=self._limits.memory_bytes,
            prepare=self.in_use & set(self._verifiers),
            start_seconds=self._limits.start_seconds,
            environment=self._limits.environment,
            on_exit=self._left,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        # The event loop keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
