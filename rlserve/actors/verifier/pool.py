"""A pool of judge processes that survives the death of any of them.

``verify_all``  waits for: a free slot, then a ready process, then each verdict.
                unblocked by: other requests that finish; a started process; the process, its death or its limit.

A process that is stuck, dead or sends garbage is killed, and the completions that it did not finish go to another
one; thanks to ready spares this costs no wait. How a lost completion ends, in this order:

1. the verifier declares ``timeout_is_failure``, and the process used the whole limit as CPU time: FAIL ("timeout");
2. tried fewer than ``attempts`` times: again in another process;
3. no verdict: TIMEOUT if the limit was reached, CRASH if the process was lost.

A reward outside the declared range is a defect of the verifier, so it ends as no verdict, too.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlserve.actors.verifier.bounds import within
from rlserve.actors.verifier.pipe import Reply
from rlserve.actors.verifier.process import Job, JudgeProcess, ProcessLost, ProcessStuck, TimeLimit
from rlserve.actors.verifier.processes import ProcessSet
from rlserve.actors.verifier.spec import VerifierSpec, effective_limit_seconds
from rlserve.actors.verifier.waiting import AsyncVerifier, verify_async
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import PluginFailed, Unavailable, UnknownName
from rlserve.records import Failure, FailureKind, Outcome, Verdict

logger = logging.getLogger(__name__)

MAX_JOB_COMPLETIONS = 64
"""Completions per message, so that a job stays below MAX_JOB_BYTES and other requests get their turn in between."""
MAX_LOGGED = 100
"""Distinct errors logged with a traceback; bounded, since an error's text may differ for every completion."""
SHORT_JOB_SECONDS = 0.002
"""A job expected to be shorter is not divided among processes: waking a second one costs about as much."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A completion without a verdict."""

    index: int
    tries: int = 0


@dataclass(slots=True)
class _Work:
    """One chunk of a request: the pending completions and the verdicts so far."""

    verifier: VerifierSpec
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
            limit=TimeLimit(self.limit_seconds * self._a_call, computing=self.verifier.timeout_is_failure),
            memory_bytes=self.memory_bytes,
        )

    @property
    def _a_call(self) -> int:
        """Pending completions that share a call, and their limits."""
        return len(self.pending) if self.verifier.judges_groups else 1

    def take_call(self) -> list[_Pending]:
        """Remove and return the pending completions of the call that failed."""
        return [self.pending.popleft() for _ in range(self._a_call)]

    def resolve(self, verdict: Verdict) -> None:
        """Store the verdict of the first pending completion."""
        self.verdicts[self.pending.popleft().index] = verdict


class VerifierPool:
    """Verifies completions in killable processes. An async context manager.

    Example::

        async with VerifierPool({"math": {}}, VerifierConfig(workers=2)) as pool:
            verdicts = await pool.verify_all("math", ["\\\\boxed{4}", "five"], b'{"answer": "4"}')
    """

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
        self._processes = ProcessSet(verifiers, self._limits, self.counts, prepare_all=prepare_all)
        self._async_verifiers: dict[str, AsyncVerifier] = {}
        self._mean_seconds: dict[str, float] = {}
        self._logged: set[str] = set()
        self._num_judged = 0

    async def __aenter__(self) -> "VerifierPool":
        """Start the processes and wait for the first. Raises the errors of :meth:`ProcessSet.start`."""
        await self._processes.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every process and wait until all are reaped."""
        others = self._async_verifiers.values()
        await asyncio.gather(self._processes.stop(), *(verifier.close() for verifier in others))

    @property
    def specs(self) -> Mapping[str, VerifierSpec]:
        """Specs by name, broken verifiers included."""
        return self._processes.specs

    @property
    def pids(self) -> list[int]:
        """Process ids of the live processes."""
        return [*self._processes.pids, *(pid for verifier in self._async_verifiers.values() for pid in verifier.pids)]

    @property
    def num_ready(self) -> int:
        """Processes without a job."""
        return self._processes.num_ready

    @property
    def num_judged(self) -> int:
        """Completions verified or tried since the start; callers watch it grow as a sign of progress."""
        return self._num_judged

    async def verify(
        self,
        verifier: str,
        completion: str,
        payload: bytes,
        prompt: str = "",
    ) -> Verdict:
        """Verify one completion, as :meth:`verify_all` does."""
        return (await self.verify_all(verifier, [completion], payload, prompt))[0]

    async def verify_all(
        self,
        verifier: str,
        completions: Sequence[str],
        payload: bytes,
        prompt: str = "",
    ) -> list[Verdict]:
        """One verdict per completion of a task, in order; the time limit holds for each of them.

        Raises UnknownName, or PluginFailed for a verifier that could not be loaded; every other error is returned
        as NO_VERDICT with its Failure. Cancelling the call kills the processes that work on it.
        """
        spec = self._find(verifier)
        if spec.concurrency and completions:
            calls = [completions] if spec.judges_groups else [[completion] for completion in completions]
            verdicts_ = await asyncio.gather(*(self._verify_async(spec, call, payload, prompt) for call in calls))
            return [verdict for found in verdicts_ for verdict in found]
        self._processes.in_use.add(spec.name)
        limit = effective_limit_seconds(spec, self._limits.limit_seconds)
        chunks = _divide(len(completions), self._num_chunks(spec, len(completions)))
        works = [
            _Work(
                verifier=spec,
                completions=completions,
                payload=payload,
                prompt=prompt,
                limit_seconds=limit,
                memory_bytes=int(min(self._limits.memory_bytes, spec.memory_bytes)),
                pending=deque(_Pending(index) for index in chunk),
            )
            for chunk in chunks
        ]
        # Not gather, which leaves the others running when one fails: a failed chunk must end them and their processes.
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(self._finish(work))
        verdicts = {index: verdict for work in works for index, verdict in work.verdicts.items()}
        self.counts["verdicts"] += len(verdicts)
        self._update_mean(verifier, verdicts.values())
        return [verdicts[index] for index in range(len(completions))]

    async def _verify_async(
        self, spec: VerifierSpec, completions: Sequence[str], payload: bytes, prompt: str
    ) -> list[Verdict]:
        """Verify with an ``async def verify``, in its own process."""
        verifier = self._async_verifiers.get(spec.name)
        if verifier is None:
            verifier = self._async_verifiers[spec.name] = AsyncVerifier(
                spec,
                self._verifiers[spec.name],
                self._limits,
                self.counts,
                limit_seconds=effective_limit_seconds(spec, self._limits.limit_seconds),
            )
        replies = await verify_async(verifier, completions, payload, prompt, attempts=self._limits.attempts)
        self._num_judged += len(completions)
        self.counts["verdicts"] += len(completions)
        if isinstance(replies, str):
            self.counts["lost"] += len(completions)
            failure = Failure(
                source=f"verifier:{spec.name}", kind=FailureKind.UNAVAILABLE, message=replies, retriable=True
            )
            return [Verdict.none(failure)] * len(completions)
        for reply in replies:
            self._note(spec.name, reply)
        return [within(reply.verdict, spec.reward_range, spec.name) for reply in replies]

    def _find(self, name: str) -> VerifierSpec:
        if name not in self.specs:
            known = ", ".join(sorted(self.specs)) or "none"
            raise UnknownName(f"verifier: {name!r} is not served here (known: {known})")
        if self.specs[name].error:
            raise PluginFailed(f"verifier: {name!r} could not be loaded: {self.specs[name].error}")
        return self.specs[name]

    def _num_chunks(self, spec: VerifierSpec, num_completions: int) -> int:
        """All processes for slow verifiers; one for work that ends before a second process would be awake."""
        if spec.judges_groups:
            return 1
        # A verifier without a mean counts as slow, so that its first request uses all processes.
        expected = self._mean_seconds.get(spec.name, 1.0) * num_completions
        shares = 1 if expected < SHORT_JOB_SECONDS else self._limits.workers
        return max(shares, -(-num_completions // MAX_JOB_COMPLETIONS))

    def _update_mean(self, verifier: str, verdicts: Collection[Verdict]) -> None:
        if verdicts:
            mean = sum(verdict.seconds for verdict in verdicts) / len(verdicts)
            self._mean_seconds[verifier] = 0.8 * self._mean_seconds.get(verifier, mean) + 0.2 * mean

    async def _finish(self, work: _Work) -> None:
        """Run a chunk in one process after another until each completion has a verdict or no attempts left."""
        while work.pending:
            try:
                async with self._processes.checkout() as worker:
                    await self._run(work, worker)
            # From the checkout alone: no process could be started.
            except Unavailable as error:
                while work.pending:
                    work.resolve(self._none(work, FailureKind.UNAVAILABLE, str(error)))

    async def _run(self, work: _Work, worker: JudgeProcess) -> None:
        """Run as much of the chunk as this process finishes; kills the process if it fails."""
        try:
            async for reply in worker.run(work.job()):
                self._note(work.verifier.name, reply)
                self._num_judged += 1
                work.resolve(within(reply.verdict, work.verifier.reward_range, work.verifier.name))
        except ProcessStuck as stuck:
            self.counts["timeouts"] += 1
            # Awaited: at the end of its block, checkout offers a process that is still alive to the next caller.
            await worker.kill()
            self._after_timeout(work, stuck)
        except ProcessLost as lost:
            self.counts["lost"] += 1
            logger.warning("%s: %s", work.verifier.name, lost)
            await worker.kill()
            self._retry(work, FailureKind.CRASH, f"the judge process was lost: {lost}")
        except BaseException:
            # Cancelled in the middle of a job: its later replies would be taken for those of the next job.
            await asyncio.shield(worker.kill())
            raise

    def _after_timeout(self, work: _Work, stuck: ProcessStuck) -> None:
        limit = work.limit_seconds
        if work.verifier.timeout_is_failure and stuck.computing:
            for failed in work.take_call():
                work.verdicts[failed.index] = Verdict(
                    outcome=Outcome.FAIL,
                    reward=max(0.0, work.verifier.reward_range[0]),
                    parts={"timeout": 1.0},
                    reason=f"timeout: not verified within {limit:g} s of CPU time",
                    verifier=work.verifier.name,
                    seconds=stuck.wall_seconds,
                    total=1,
                )
            return
        spent = f"{stuck.used_seconds:.2g} s of CPU time in {stuck.wall_seconds:.2g} s"
        each = " a completion (verifier.limit_seconds)" if work.verifier.judges_groups else ""
        self._retry(work, FailureKind.TIMEOUT, f"not verified within {limit:g} s{each} ({spent})")

    def _note(self, verifier: str, reply: Reply) -> None:
        """Log the first traceback of each distinct error; ``counts`` has how many there were."""
        if not reply.traceback:
            return
        self.counts["raised"] += 1
        cause = f"{verifier}: {reply.verdict.reason}"
        if cause not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(cause)
            logger.error("verifier %s failed: %s\n%s", verifier, reply.verdict.reason, reply.traceback)

    def _retry(self, work: _Work, kind: FailureKind, message: str) -> None:
        """Retry the completions of the call that failed, unless they have no attempts left."""
        again: list[_Pending] = []
        for failed in work.take_call():
            self._num_judged += 1
            if failed.tries + 1 < self._limits.attempts:
                self.counts["retries"] += 1
                again.append(_Pending(failed.index, failed.tries + 1))
            else:
                work.verdicts[failed.index] = self._none(work, kind, message)
        work.pending.extendleft(reversed(again))

    def _none(self, work: _Work, kind: FailureKind, message: str) -> Verdict:
        source = f"verifier:{work.verifier.name}"
        return Verdict.none(Failure(source=source, kind=kind, message=message, retriable=True))


def _divide(num_items: int, num_chunks: int) -> list[range]:
    """Indices in at most ``num_chunks`` ranges of about equal length."""
    size = max(1, -(-num_items // max(1, num_chunks)))
    return [range(start, min(start + size, num_items)) for start in range(0, num_items, size)]
