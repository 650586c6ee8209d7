"""Async verifiers, such as an LLM judge behind HTTP: many completions at once in one process.

``verify``  waits for: one of ``concurrency`` places, the process, its verdicts. unblocked by: the process, its death,
            or twice the limit plus STUCK_SECONDS (then the process is killed). The limit begins with the place.
``_pump``   waits for: replies. Ends with the process and fails every pending call.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlserve.actors.verifier.pipe import Garbage, Reply, decode_reply
from rlserve.actors.verifier.process import JudgeProcess, ProcessLost
from rlserve.actors.verifier.spec import VerifierSpec
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import DeadlineExceeded, Unavailable

logger = logging.getLogger(__name__)

STUCK_FACTOR, STUCK_SECONDS = 2.0, 30.0
"""The process itself ends a completion at its limit; if it sends nothing for this long, its event loop is blocked."""


class AsyncJudgeProcess(JudgeProcess):
    """A process that verifies many completions at once. Made by :meth:`start`."""

    MODULE = "rlserve.actors.verifier.waiting_worker"

    def begin(self, verifier: str) -> None:
        """Start to receive replies; call once, after :meth:`start`."""
        self._verifier = verifier
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Reply]] = {}
        self._pumping = asyncio.create_task(self._pump())

    async def ask(self, job: Mapping[str, Any]) -> list[Reply]:
        """The verdicts on a job's completions. Raises ProcessLost if the process ends first."""
        if not self.alive:
            raise ProcessLost(self._obituary())
        loop = asyncio.get_running_loop()
        numbers = [next(self._numbers) for _ in job["completions"]]
        answers = [loop.create_future() for _ in numbers]
        self._asked.update(zip(numbers, answers, strict=True))
        self._send({"number": numbers[0], **job})
        try:
            # Each is set by the pump, with a verdict or with ProcessLost.
            return list(await asyncio.gather(*answers))
        finally:
            for number in numbers:
                del self._asked[number]
            # The caller left: without this the process would work on until the limit.
            if any(answer.cancelled() for answer in answers) and self.alive:
                self._send({"number": numbers[0], "cancel": True})
            for answer in answers:
                if answer.done() and not answer.cancelled():
                    answer.exception()  # marks it as seen: gather raised the first one alone

    async def kill(self) -> None:
        """Kill the process; pending calls raise ProcessLost."""
        await super().kill()
        # ``start`` kills a process that fails before ``begin``.
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
                # Absent: its caller left before the cancellation reached the process.
                if (answer := self._asked.get(reply.index)) is not None and not answer.done():
                    answer.set_result(reply)
            if fault or pipes.fault or pipes.closed:
                pipes.fault = pipes.fault or fault  # no more replies are read, so the process counts as dead
                break
            pipes.changed.clear()
            await pipes.changed.wait()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ProcessLost(fault or pipes.fault or self._obituary()))


class AsyncVerifier:
    """One async verifier and its process, started when first needed and after each death."""

    def __init__(
        self,
        spec: VerifierSpec,
        options: Mapping[str, Any],
        limits: VerifierConfig,
        counts: Counter[str],
        *,
        limit_seconds: float,
    ) -> None:
        self._spec = spec
        self._options = options
        self._limits = limits
        self._counts = counts
        self._limit_seconds = limit_seconds
        self._places = asyncio.Semaphore(spec.concurrency)
        self._starting = asyncio.Lock()
        self._process: AsyncJudgeProcess | None = None

    @property
    def pids(self) -> list[int]:
        """Process id, if the process runs."""
        return [self._process.pid] if self._process is not None and self._process.alive else []

    async def verify(self, completions: Sequence[str], payload: bytes, prompt: str) -> list[Reply]:
        """Verify completions of one task in one call. Raises ProcessLost, Unavailable or DeadlineExceeded."""
        limit = self._limit_seconds * len(completions)
        job = {
            "completions": list(completions),
            "payload": payload.decode("latin-1"),
            "prompt": prompt,
            "limit_seconds": limit,
        }
        async with self._places:
            process = await self._running()
            try:
                async with asyncio.timeout(STUCK_FACTOR * limit + STUCK_SECONDS):
                    return await process.ask(job)
            except TimeoutError:
                logger.error("verifier %s: its process is stuck; starting another", self._spec.name)
                # All its calls end with it, since a blocked event loop holds all of them.
                await process.kill()
                raise ProcessLost("the judge process was stuck: does verify block its event loop?") from None

    async def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            await self._process.kill()

    async def _running(self) -> AsyncJudgeProcess:
        # Callers that arrive together must share one process, not start one each.
        async with self._starting:
            if self._process is not None and self._process.alive:
                return self._process
            # It exited, or sent garbage and runs on: kill reaps it and closes its pipes.
            if self._process is not None:
                await self._process.kill()
            self._counts["started"] += 1
            self._process = process = await AsyncJudgeProcess.start(
                {self._spec.name: self._options},
                memory_bytes=self._limits.memory_bytes,
                prepare=[self._spec.name],
                start_seconds=self._limits.start_seconds,
                environment=self._limits.environment,
                # Not replaced on exit: the next call starts another.
                on_exit=lambda _: None,
            )
            if error := process.specs[self._spec.name].error:
                await process.kill()
                raise Unavailable(error)
            process.begin(self._spec.name)
            return process


async def verify_async(
    verifier: AsyncVerifier, completions: Sequence[str], payload: bytes, prompt: str, *, attempts: int
) -> list[Reply] | str:
    """The replies, or an error message after ``attempts`` lost processes."""
    problem = ""
    for _ in range(attempts):
        try:
            return await verifier.verify(completions, payload, prompt)
        # No process could be started: another attempt at once would most likely fail the same way.
        except (Unavailable, DeadlineExceeded) as error:
            return str(error)
        except ProcessLost as lost:
            problem = f"the judge process was lost: {lost}"
    return problem
