"""What the learner says of a run: metrics, run state at the hub, events, the summary."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio

from rlserve.actors.hub.client import HubClient
from rlserve.actors.learner.curriculum import Curriculum
from rlserve.actors.learner.evaluation import Evaluation
from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.policy_service import PolicyService
from rlserve.actors.learner.received import Arrivals
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.observability.events import EventLog, read_json_lines
from rlserve.observability.metrics import MetricsFile, percentile
from rlserve.observability.summary import write_json
from rlserve.observability.warner import Warner
from rlserve.records import RunPhase, RunState
from rlserve.rpc.thread import LoopThread

logger = logging.getLogger(__name__)


class Reporter:
    """Writes files of the run directory, and tells the hub."""

    def __init__(
        self,
        *,
        config: RunConfig,
        paths: RunPaths,
        inbox: Inbox,
        arrivals: Arrivals,
        policy: PolicyService,
        hub: HubClient | None,
        thread: LoopThread,
        warn: Warner,
        step: int = 0,
        environments: Callable[[], str] = lambda: "",
        curriculum: Curriculum | None = None,
    ) -> None:
        """``step`` is where the run goes on; ``environments`` says what tasks are drawn from, for people."""
        self._config = config
        self._inbox = inbox
        self._arrivals = arrivals
        self._policy = policy
        self._hub = hub
        self._thread = thread
        self._environments = environments
        self._curriculum = curriculum or Curriculum(())
        self._paths = paths
        self._events = EventLog(paths.events)
        self._warn = warn
        self._metrics = MetricsFile(paths.metrics, step=step, warn=warn)
        self._phase = RunPhase.STARTING
        self._step = step
        self._num_reports = 0
        self._latest: dict[str, float] = {}
        self._rate = _Rate()
        self._training_seconds = 0.0
        self._sampled_tokens = 0
        self._phase_started = time.monotonic()

    def phase(self, name: str, **fields: Any) -> None:
        """The run enters a phase."""
        self._close_phase()
        self._phase = RunPhase.TRAINING if name == "training" else RunPhase.EVALUATING
        self._events.write("phase", name=name, **fields)
        logger.info("phase: %s", name)
        self._tell_hub()

    def step(self, step: int, numbers: Mapping[str, float]) -> float | None:
        """Record an optimizer step; returns the mean reward received since the last one, None if nothing was."""
        self._step = step
        values = {**numbers, **self._intake(), **self._counts(), **self._workers(), **self._curriculum.metrics()}
        self._latest = values
        self._metrics.write(step, values)
        self._tell_hub()
        return values.get("received/reward_mean")

    def ends_early(self, reason: str) -> None:
        """Training ends before its last step, and this is why."""
        if self._step < self._config.steps:
            self._events.write("ends_early", step=self._step, steps=self._config.steps, reason=reason)
        logger.info("training ends at step %d: %s", self._step, reason)

    def measured(self, when: str, step: int, evaluation: Evaluation) -> None:
        """Record a held-out measurement."""
        self._events.write(
            "accuracy", **{"when": when, "step": step, "value": evaluation.accuracy, **evaluation.to_json()}
        )
        self._metrics.write(step, evaluation.metrics())
        if evaluation.unjudged:
            self._warn(
                f"evaluation {when}: {evaluation.unjudged} of {evaluation.samples} samples have no verdict and count "
                "neither way; see the log of the verifier",
            )
        if len(evaluation.versions) > 1:
            self._warn(f"evaluation {when} was sampled by versions {evaluation.versions}")

    def summarize(
        self, *, step: int, before: Mapping[str, Any] | None, after: Evaluation | None, lag_tokens: Counter[int]
    ) -> None:
        """Write ``summary.json``; the launcher adds wall seconds."""
        self._close_phase()
        counts = self._inbox.counts()
        stalls = [report.stall_seconds for report in self._policy.reports()]
        write_json(
            self._paths.summary,
            {
                "name": self._config.name,
                "algorithm": self._config.algorithm.type,
                "seed": self._config.seed,
                "accuracy_before": before["accuracy"] if before else None,
                "accuracy_after": after.accuracy if after else None,
                "reward_before": before["reward_mean"] if before else None,
                "reward_after": after.reward_mean if after else None,
                "evaluations": {"before": before, "after": after.to_json() if after else None},
                "steps": step,
                "weight_updates": len(stalls),
                "weight_mismatches": self._policy.num_mismatches,
                "tokens_per_second": round(self._sampled_tokens / max(self._training_seconds, 1e-9), 1),
                "stall_seconds": {
                    "p50": round(percentile(stalls, 0.5), 5),
                    "p99": round(percentile(stalls, 0.99), 5),
                },
                "lag": {
                    "p50": _weighted_median(lag_tokens),
                    "max": max(lag_tokens, default=0),
                    "histogram": {str(lag): count for lag, count in sorted(lag_tokens.items())},
                },
                "groups": {
                    "received": counts.received,
                    "consumed": counts.consumed,
                    "queued": counts.queued,
                    "dropped": dict(counts.dropped),
                },
                "rejected": dict(self._inbox.rejections),
                "recovery_seconds": self._recoveries(),
            },
        )

    def finished(self, phase: RunPhase, message: str = "") -> None:
        """The run ends."""
        self._phase = phase
        self._tell_hub(message)
        self._metrics.close()

    def _intake(self) -> dict[str, float]:
        received = self._arrivals.drain()
        self._sampled_tokens += received.sampled_tokens
        numbers = {
            "received/samples": float(self._arrivals.total_samples),
            "rollout/tokens_per_second": self._rate.add(received.sampled_tokens),
        }
        if received.judged:
            numbers["received/reward_mean"] = received.reward_sum / received.judged
            numbers["received/accuracy"] = received.right / received.judged
        for name, (rewards, judged) in received.by_environment.items():
            numbers[f"received/reward_mean/{name}"] = rewards / judged
        return numbers

    def _counts(self) -> dict[str, float]:
        counts = self._inbox.counts()
        return {
            "groups/received": float(counts.received),
            "groups/consumed": float(counts.consumed),
            "groups/queued": float(counts.queued),
            "groups/dropped": float(sum(counts.dropped.values())),
            **{f"groups/dropped/{reason}": float(count) for reason, count in counts.dropped.items()},
        }

    def _workers(self) -> dict[str, float]:
        reports, num_reports = self._policy.reports(), self._policy.num_reports
        new = min(num_reports - self._num_reports, len(reports))
        stalls = [report.stall_seconds for report in reports[len(reports) - new :]]
        self._num_reports = num_reports
        numbers = {
            "rollout/workers": float(sum(w.connected for w in self._inbox.workers())),
            "rollout/weight_updates": float(num_reports),
        }
        if stalls:
            numbers["rollout/stall_seconds_p50"] = percentile(stalls, 0.5)
            numbers["rollout/stall_seconds_max"] = max(stalls)
        return numbers

    def _recoveries(self) -> dict[str, float]:
        events = read_json_lines(self._paths.events)
        return {str(e["actor"]): float(e["seconds"]) for e in events if e.get("event") == "actor_recovered"}

    def _close_phase(self) -> None:
        now = time.monotonic()
        if self._phase is RunPhase.TRAINING:
            self._training_seconds += now - self._phase_started
        self._phase_started = now

    def _tell_hub(self, message: str = "") -> None:
        if self._hub is None:
            return
        counts = self._inbox.counts()
        state = RunState(
            run_id=self._config.name,
            phase=self._phase,
            step=self._step,
            total_steps=self._config.steps,
            metrics=self._latest,
            groups={
                "received": counts.received,
                "consumed": counts.consumed,
                "queued": counts.queued,
                **{f"dropped/{reason}": count for reason, count in counts.dropped.items()},
            },
            updated_unix_seconds=time.time(),
            message=message or self._environments(),
        )
        self._thread.submit(_report(self._hub, state))


async def _report(hub: HubClient, state: RunState) -> None:
    try:
        await hub.report_run_state(state)
    except (RlserveError, grpc.aio.AioRpcError) as error:
        logger.warning("the hub did not take the run state: %s", error)


class _Rate:
    """Events a second between two calls."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def add(self, count: int) -> float:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return count / max(seconds, 1e-9)


def _weighted_median(counts: Mapping[int, int]) -> int:
    total, seen = sum(counts.values()), 0
    for value, count in sorted(counts.items()):
        seen += count
        if 2 * seen >= total:
            return value
    return 0
