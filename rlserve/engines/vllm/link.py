"""The link to EngineCore: every call has a deadline, and all pending calls fail as soon as EngineCore dies."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict, TypeVar

from rlserve.errors import DeadlineExceeded, EngineDied, NotReady, WeightsMismatch

logger = logging.getLogger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.005
"""First pause between two looks at a job: staging a model of a few million parameters takes about as long."""
MAX_POLL_SECONDS = 0.1
"""The pause doubles up to this: little beside a job of seconds, and each look interrupts the engine's step loop."""


class JobOutcome(StrEnum):
    """How a job in vLLM's worker stands. The error's class crosses the process border as one of these."""

    RUNNING = "running"
    DONE = "done"
    MISMATCH = "mismatch"
    """It raised WeightsMismatch."""
    FAILED = "failed"
    """It raised anything else."""


class JobState(TypedDict):
    """What a worker reports about its job: plain values, as vLLM's serializer wants them."""

    version: int
    outcome: str
    """A ``JobOutcome``."""
    error: str
    result: str
    """Empty for a job whose result stays in the worker."""
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One kind of work in vLLM's workers; ``begin`` and ``state`` are methods of ``plugin.WeightCalls``."""

    what: str
    """For error messages."""
    begin: str
    state: str


STAGE = WorkerJob("stage weights", begin="stage_weights", state="staging_state")
DIGEST = WorkerJob("digest weights", begin="begin_digest", state="digest_state")


class EngineLink:
    """One running ``AsyncLLM``, used from the event loop that made this object."""

    def __init__(self, llm: Any, *, limit_seconds: float) -> None:
        self._llm = llm
        self._limit_seconds = limit_seconds
        self._closing = False
        self.num_waiting = 0
        """Calls that wait for EngineCore."""
        self.num_answered = 0
        self.reason = ""
        """Why the engine is lost; empty while it lives."""
        self.died = asyncio.Event()
        """Set when EngineCore is gone; not by ``close``."""
        loop = asyncio.get_running_loop()
        # The sentinel becomes readable when the process ends: vLLM itself notices only at its next message.
        for process in self._processes():
            loop.add_reader(process.sentinel, self.give_up, "EngineCore ended by itself")

    @property
    def llm(self) -> Any:
        """vLLM's engine. Raises EngineDied when it is gone."""
        self.check_alive()
        return self._llm

    @property
    def alive(self) -> bool:
        """False once EngineCore is gone or the link is closed."""
        return not (self._closing or self.died.is_set())

    @property
    def process_ids(self) -> list[int]:
        """EngineCore's processes."""
        return [process.pid for process in self._processes()]

    def check_alive(self) -> None:
        """Raise EngineDied unless the engine lives."""
        if not self.alive:
            why = self.reason or "EngineCore is gone"
            raise EngineDied(f"engine: {why}; restart the rollout worker")

    async def call(self, what: str, awaitable: Awaitable[T]) -> T:
        """The answer of EngineCore to a call. Raises EngineDied as soon as it dies, DeadlineExceeded."""
        call = asyncio.ensure_future(awaitable)
        death = asyncio.ensure_future(self.died.wait())
        self.num_waiting += 1
        try:
            await asyncio.wait({call, death}, timeout=self._limit_seconds, return_when=asyncio.FIRST_COMPLETED)
            self.check_alive()  # first: a call that failed because of the death would raise vLLM's error instead
            if not call.done():
                raise DeadlineExceeded(f"engine: {what}: EngineCore did not answer for {self._limit_seconds:g} s")
            self.num_answered += 1
            return call.result()
        finally:
            self.num_waiting -= 1
            death.cancel()
            call.cancel()

    async def ask_all(self, what: str, method: str, *args: Any) -> list[Any]:
        """Every worker's answer to a method of ``WeightCalls``."""
        answers: list[Any] = await self.call(what, self.llm.collective_rpc(method, args=args))
        return answers

    async def job(self, job: WorkerJob, *args: Any) -> list[JobState]:
        """Begin a job in every worker; return the state of each once all are done.

        Raises WeightsMismatch if the job of any worker did, NotReady for any other failure.
        """
        await self.ask_all(job.what, job.begin, *args)
        deadline = time.monotonic() + self._limit_seconds
        pause = POLL_SECONDS
        while True:
            await asyncio.sleep(pause)
            states: list[JobState] = await self.ask_all(job.what, job.state)
            if all(state["outcome"] != JobOutcome.RUNNING for state in states):
                break
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"engine: {job.what}: not done after {self._limit_seconds:g} s")
            pause = min(2 * pause, MAX_POLL_SECONDS)
        for state in states:
            match JobOutcome(state["outcome"]):
                case JobOutcome.MISMATCH:
                    raise WeightsMismatch(state["error"])
                case JobOutcome.FAILED:
                    raise NotReady(f"engine: {job.what}: {state['error']}")
        return states

    def give_up(self, reason: str) -> None:
        """Declare the engine lost, once: fail pending calls and kill its processes. vLLM then fails its requests."""
        if not self.alive:
            return
        logger.error("the engine is lost: %s", reason)
        self._unwatch()  # before the kill: otherwise the sentinels would report this death a second time
        self.reason = reason
        self.died.set()
        for process in self._processes():
            process.kill()

    def close(self) -> None:
        """End EngineCore. Safe to call twice."""
        if self._closing:
            return
        self._unwatch()
        self._closing = True
        llm, self._llm = self._llm, None  # dropped, so that vLLM is collected before the interpreter shuts down
        llm.shutdown(timeout=0)

    def _processes(self) -> list[Any]:
        manager = None if self._llm is None else self._llm.engine_core.resources.engine_manager
        return [] if manager is None else list(manager.processes)

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        for process in self._processes():
            loop.remove_reader(process.sentinel)
