"""Verifiers that wait for others, such as a judge behind HTTP: many completions at once in one process.

``judge``  waits for: one of ``concurrency`` places, the process, its verdict. unblocked by: the process, its death, or
           twice the limit and some (then it is stuck, and killed). Its limit begins when it has its place.
``_pump``  waits for: what the process says. Ends with the process; whoever waited is told.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlserve.actors.verifier.frames import Garbage, Reply, decode_reply
from rlserve.actors.verifier.process import WorkerLost, WorkerProcess
from rlserve.actors.verifier.traits import VerifierTraits
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import DeadlineExceeded, Unavailable

logger = logging.getLogger(__name__)

STUCK_FACTOR, STUCK_SECONDS = 2.0, 30.0
"""The process ends a completion at its limit by itself; one that says nothing for so long cannot any more."""


class WaitingProcess(WorkerProcess):
    """A process that judges many completions at once. Made by :meth:`start`."""

    MODULE = "rlserve.actors.verifier.waiting_worker"

    def begin(self, verifier: str) -> None:
        """Start to listen; once, after the start."""
        self._verifier = verifier
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._pumping = asyncio.create_task(self._pump())

    async def ask(self, job: Mapping[str, Any]) -> Reply:
        """The verdict of one completion. Raises WorkerLost when the process ends before it."""
        if not self.alive:
            raise WorkerLost(self._obituary())
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        self._asked[number] = answer
        self._send({"number": number, **job})
        try:
            return await answer
        finally:
            del self._asked[number]
            if answer.cancelled() and self.alive:
                self._send({"number": number, "cancel": True})

    async def kill(self) -> None:
        """End it at once; whoever waits for it gets WorkerLost."""
        await super().kill()
        if hasattr(self, "_pumping"):
            await self._pumping

    async def _pump(self) -> None:
        pipes, fault = self._pipes, ""
        while True:
            while pipes.frames and not fault:
                try:
                    reply = decode_reply(pipes.frames.popleft(), verifier=self._verifier)
                except Garbage as error:
                    fault = str(error)
                    break
                self.completions += 1
                if (answer := self._asked.get(reply.index)) is not None and not answer.done():
                    answer.set_result(reply)
            if fault or pipes.fault or pipes.closed:
                pipes.fault = pipes.fault or fault  # nobody listens any more: it counts as dead
                break
            pipes.changed.clear()
            await pipes.changed.wait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(WorkerLost(fault or pipes.fault or self._obituary()))


class WaitingJudge:
    """One verifier that waits, and the process that it judges in, started when first needed and after each death."""

    def __init__(
        self,
        traits: VerifierTraits,
        options: Mapping[str, Any],
        limits: VerifierConfig,
        counts: Counter[str],
        *,
        limit_seconds: float,
    ) -> None:
        self._traits = traits
        self._options = options
        self._limits = limits
        self._counts = counts
        self._limit_seconds = limit_seconds
        self._places = asyncio.Semaphore(traits.concurrency)
        self._starting = asyncio.Lock()
        self._process: WaitingProcess | None = None

    @property
    def pids(self) -> list[int]:
        """Of the process, if it runs."""
        return [self._process.pid] if self._process is not None and self._process.alive else []

    async def judge(self, completion: str, payload: bytes, prompt: str) -> Reply:
        """Judge one completion. Raises WorkerLost, Unavailable or DeadlineExceeded when the process cannot."""
        job = {
            "completion": completion,
            "payload": payload.decode("latin-1"),
            "prompt": prompt,
            "limit_seconds": self._limit_seconds,
        }
        async with self._places:
            process = await self._running()
            try:
                async with asyncio.timeout(STUCK_FACTOR * self._limit_seconds + STUCK_SECONDS):
                    return await process.ask(job)
            except TimeoutError:
                logger.error("verifier %s: its process stands still; another is started", self._traits.name)
                await process.kill()
                raise WorkerLost("the judging process stood still: does verify block its event loop?") from None

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._process.kill()

    async def _running(self) -> WaitingProcess:
        async with self._starting:
            if self._process is not None and self._process.alive:
                return self._process
            if self._process is not None:
                await self._process.kill()
            self._counts["started"] += 1
            self._process = process = await WaitingProcess.start(
                {self._traits.name: self._options},
                memory_bytes=self._limits.memory_bytes,
                prepare=[self._traits.name],
                start_seconds=self._limits.start_seconds,
                on_exit=lambda _: None,
            )
            if error := process.traits[self._traits.name].error:
                await process.kill()
                raise Unavailable(error)
            process.begin(self._traits.name)
            return process


async def judge_waiting(judge: WaitingJudge, job: tuple[str, bytes, str], *, attempts: int) -> Reply | str:
    """The reply, or why there is none after ``attempts`` processes were lost."""
    problem = ""
    for _ in range(attempts):
        try:
            return await judge.judge(*job)
        except (Unavailable, DeadlineExceeded) as error:
            return str(error)
        except WorkerLost as lost:
            problem = f"the judging process was lost: {lost}"
    return problem
