"""Judging processes that can be killed at any moment, and verdicts all the same.

``judge_all``  waits for: a free slot, then a ready worker, then each verdict.
               unblocked by: other requests finishing; the crew; the worker, its death or its limit.

A worker that is stuck, dead or talks nonsense is killed, and the completions that it had not judged go to
another one. Ready spares make that cost no wait. How a lost completion ends, in this order:

1. the verifier declares ``timeout_is_failure``, and the worker used the whole limit as CPU time: FAIL ("timeout");
2. tried fewer than ``attempts`` times: again on another worker;
3. no verdict: TIMEOUT when the limit ran out, CRASH when the worker was lost.

A reward outside of the range that the verifier declares is a defect of the verifier: no verdict either.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlserve.actors.verifier.bounds import within
from rlserve.actors.verifier.crew import Crew
from rlserve.actors.verifier.frames import Reply
from rlserve.actors.verifier.process import Job, TimeLimit, WorkerLost, WorkerProcess, WorkerStuck
from rlserve.actors.verifier.traits import VerifierTraits, effective_limit_seconds
from rlserve.actors.verifier.waiting import WaitingJudge, judge_waiting
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import PluginFailed, Unavailable, UnknownName
from rlserve.records import Failure, FailureKind, Outcome, Verdict

logger = logging.getLogger(__name__)

MAX_JOB_COMPLETIONS = 64
MAX_TOLD = 100
"""Causes whose traceback is logged; a verifier may put anything into its errors."""
SHORT_JOB_SECONDS = 0.002
"""A job expected to be shorter than this is not divided among workers."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A completion without a verdict."""

    index: int
    tries: int = 0


@dataclass(slots=True)
class _Work:
    """One chunk of a request: what is still to do, and the verdicts so far."""

    verifier: VerifierTraits
    completions: Sequence[str]
    payload: bytes
    prompt: str
    limit_seconds: float
    memory_bytes: int
    pending: deque[_Pending]
    verdicts: dict[int, Verdict] = field(default_factory=dict)

    def job(self) -> Job:
        return Job(
            verifier=self.verifier.name,
            payload=self.payload,
            prompt=self.prompt,
            completions=[self.completions[pending.index] for pending in self.pending],
            limit=TimeLimit(self.limit_seconds, computing=self.verifier.timeout_is_failure),
            memory_bytes=self.memory_bytes,
        )

    def settle(self, verdict: Verdict) -> None:
        """The first pending completion has its verdict."""
        self.verdicts[self.pending.popleft().index] = verdict


class WorkerPool:
    """Judges completions in killable processes. Use it as an async context manager."""

    def __init__(
        self,
        verifiers: Mapping[str, Mapping[str, Any]],
        limits: VerifierConfig | None = None,
        *,
        prepare_all: bool = True,
    ) -> None:
        """``verifiers`` are registered names with their constructor options.

        Without ``prepare_all`` each is prepared for its first job, and from then on in every new worker.
        """
        self._limits = limits or VerifierConfig()
        self.counts: Counter[str] = Counter()
        """``verdicts``, ``timeouts``, ``lost``, ``retries``, ``started``, ``recycled``: for metrics."""
        self._verifiers = verifiers
        self._crew = Crew(verifiers, self._limits, self.counts, prepare_all=prepare_all)
        self._waiting: dict[str, WaitingJudge] = {}
        self._mean_seconds: dict[str, float] = {}
        self._told: set[str] = set()
        self._num_judged = 0

    async def __aenter__(self) -> "WorkerPool":
        """Start the workers and wait for the first. Raises what :meth:`Crew.start` raises."""
        await self._crew.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every worker and wait until they are reaped."""
        await asyncio.gather(self._crew.stop(), *(judge.close() for judge in self._waiting.values()))

    @property
    def traits(self) -> Mapping[str, VerifierTraits]:
        """Traits by name, broken verifiers included."""
        return self._crew.traits

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [*self._crew.pids, *(pid for judge in self._waiting.values() for pid in judge.pids)]

    @property
    def num_ready(self) -> int:
        """Workers that wait for a job."""
        return self._crew.num_ready

    @property
    def num_judged(self) -> int:
        """Completions judged or tried since the start: what grows while the queue moves."""
        return self._num_judged

    async def judge(
        self,
        verifier: str,
        completion: str,
        payload: bytes,
        prompt: str = "",
    ) -> Verdict:
        """Judge one completion; see :meth:`judge_all`."""
        return (await self.judge_all(verifier, [completion], payload, prompt))[0]

    async def judge_all(
        self,
        verifier: str,
        completions: Sequence[str],
        payload: bytes,
        prompt: str = "",
    ) -> list[Verdict]:
        """One verdict for each completion of a task, in order; the limit holds for each of them.

        Raises UnknownName, or PluginFailed for a verifier that could not be loaded; every other trouble is a
        verdict that says there is none. When the caller is cancelled, the workers at its completions are killed.
        """
        traits = self._find(verifier)
        if traits.concurrency:
            judged = (self._wait_for(traits, completion, payload, prompt) for completion in completions)
            return list(await asyncio.gather(*judged))
        self._crew.in_use.add(traits.name)
        limit = effective_limit_seconds(traits, self._limits.limit_seconds)
        chunks = _divide(len(completions), self._num_chunks(verifier, len(completions)))
        works = [
            _Work(
                verifier=traits,
                completions=completions,
                payload=payload,
                prompt=prompt,
                limit_seconds=limit,
                memory_bytes=int(min(self._limits.memory_bytes, traits.memory_bytes)),
                pending=deque(_Pending(index) for index in chunk),
            )
            for chunk in chunks
        ]
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(self._finish(work))
        verdicts = {index: verdict for work in works for index, verdict in work.verdicts.items()}
        self.counts["verdicts"] += len(verdicts)
        self._learn(verifier, verdicts.values())
        return [verdicts[index] for index in range(len(completions))]

    async def _wait_for(self, traits: VerifierTraits, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Judge by a verifier that waits, in its own process."""
        judge = self._waiting.get(traits.name)
        if judge is None:
            judge = self._waiting[traits.name] = WaitingJudge(
                traits,
                self._verifiers[traits.name],
                self._limits,
                self.counts,
                limit_seconds=effective_limit_seconds(traits, self._limits.limit_seconds),
            )
        reply = await judge_waiting(judge, (completion, payload, prompt), attempts=self._limits.attempts)
        self._num_judged += 1
        self.counts["verdicts"] += 1
        if isinstance(reply, str):
            self.counts["lost"] += 1
            failure = Failure(
                source=f"verifier:{traits.name}", kind=FailureKind.UNAVAILABLE, message=reply, retriable=True
            )
            return Verdict.none(failure)
        self._note(traits.name, reply)
        return within(reply.verdict, traits.reward_range, traits.name)

    def _find(self, name: str) -> VerifierTraits:
        if name not in self.traits:
            known = ", ".join(sorted(self.traits)) or "none"
            raise UnknownName(f"verifier: {name!r} is not served here (known: {known})")
        if self.traits[name].error:
            raise PluginFailed(f"verifier: {name!r} could not be loaded: {self.traits[name].error}")
        return self.traits[name]

    def _num_chunks(self, verifier: str, num_completions: int) -> int:
        """All workers for slow verifiers; one round trip for what is done before a second worker is woken."""
        expected = self._mean_seconds.get(verifier, 1.0) * num_completions
        shares = 1 if expected < SHORT_JOB_SECONDS else self._limits.workers
        return max(shares, -(-num_completions // MAX_JOB_COMPLETIONS))

    def _learn(self, verifier: str, verdicts: Collection[Verdict]) -> None:
        if verdicts:
            mean = sum(verdict.seconds for verdict in verdicts) / len(verdicts)
            self._mean_seconds[verifier] = 0.8 * self._mean_seconds.get(verifier, mean) + 0.2 * mean

    async def _finish(self, work: _Work) -> None:
        """Run a chunk on one worker after another until each completion has a verdict or none for good."""
        while work.pending:
            try:
                async with self._crew.leased() as worker:
                    await self._run(work, worker)
            except Unavailable as error:
                while work.pending:
                    work.settle(self._none(work, FailureKind.UNAVAILABLE, str(error)))

    async def _run(self, work: _Work, worker: WorkerProcess) -> None:
        """As much of the chunk as this worker gets done; leaves a dead worker behind when it fails."""
        try:
            async for reply in worker.run(work.job()):
                self._note(work.verifier.name, reply)
                self._num_judged += 1
                work.settle(within(reply.verdict, work.verifier.reward_range, work.verifier.name))
        except WorkerStuck as stuck:
            self.counts["timeouts"] += 1
            await worker.kill()
            self._after_timeout(work, stuck)
        except WorkerLost as lost:
            self.counts["lost"] += 1
            logger.warning("%s: %s", work.verifier.name, lost)
            await worker.kill()
            self._again(work, FailureKind.CRASH, f"the judging process was lost: {lost}")
        except BaseException:
            # Cancelled in the middle of a job: whatever the worker still says belongs to nobody.
            await asyncio.shield(worker.kill())
            raise

    def _after_timeout(self, work: _Work, stuck: WorkerStuck) -> None:
        limit = work.limit_seconds
        if work.verifier.timeout_is_failure and stuck.computing:
            work.settle(
                Verdict(
                    outcome=Outcome.FAIL,
                    reward=max(0.0, work.verifier.reward_range[0]),
                    parts={"timeout": 1.0},
                    reason=f"timeout: not judged within {limit:g} s of CPU time",
                    verifier=work.verifier.name,
                    seconds=stuck.wall_seconds,
                    total=1,
                )
            )
            return
        spent = f"{stuck.used_seconds:.2g} s of CPU time in {stuck.wall_seconds:.2g} s"
        self._again(work, FailureKind.TIMEOUT, f"not judged within {limit:g} s ({spent})")

    def _note(self, verifier: str, reply: Reply) -> None:
        """The first traceback of each cause goes to the log; how many there were is in the counts."""
        if not reply.traceback:
            return
        self.counts["raised"] += 1
        cause = f"{verifier}: {reply.verdict.reason}"
        if cause not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(cause)
            logger.error("verifier %s failed: %s\n%s", verifier, reply.verdict.reason, reply.traceback)

    def _again(self, work: _Work, kind: FailureKind, message: str) -> None:
        """Try the first pending completion again, unless it has had its tries."""
        self._num_judged += 1
        first = work.pending[0]
        if first.tries + 1 < self._limits.attempts:
            self.counts["retries"] += 1
            work.pending[0] = _Pending(first.index, first.tries + 1)
        else:
            work.settle(self._none(work, kind, message))

    def _none(self, work: _Work, kind: FailureKind, message: str) -> Verdict:
        source = f"verifier:{work.verifier.name}"
        return Verdict.none(Failure(source=source, kind=kind, message=message, retriable=True))


def _divide(num_items: int, num_chunks: int) -> list[range]:
    """Indices in at most ``num_chunks`` runs of about the same length."""
    size = max(1, -(-num_items // max(1, num_chunks)))
    return [range(start, min(start + size, num_items)) for start in range(0, num_items, size)]
