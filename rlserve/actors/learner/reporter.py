"""The run's record for people and tools: phases and measurements in ``events.jsonl``, numbers in ``metrics.jsonl``,
``summary.json`` at the end, the present state at the hub, and all of it to trackers."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.measure.arrivals import Arrivals
from rlserve.actors.learner.measure.evaluation import Evaluation
from rlserve.actors.learner.run_state import HubReport
from rlserve.actors.learner.run_summary import run_summary
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import EventLog, read_json_lines
from rlserve.observability.metrics import MetricsFile, percentile
from rlserve.observability.summary import write_json
from rlserve.observability.warner import Warner
from rlserve.records import RunPhase
from rlserve.store.base import GroupCounts
from rlserve.trackers.feed import CLOSE_SECONDS, STOP_SECONDS, Feed
from rlserve.weight_sync.service import PolicyService

logger = logging.getLogger(__name__)


class Reporter:
    """Writes what happens during a run; decides and waits for nothing."""

    def __init__(
        self,
        *,
        config: RunConfig,
        paths: RunPaths,
        inbox: Inbox,
        arrivals: Arrivals,
        policy: PolicyService,
        curriculum: Curriculum,
        hub: HubReport,
        warn: Warner,
        step: int = 0,
    ) -> None:
        """``step`` is where the run resumes."""
        self._config = config
        self._paths = paths
        self._inbox = inbox
        self._arrivals = arrivals
        self._policy = policy
        self._curriculum = curriculum
        self._hub = hub
        self._warn = warn
        self._events = EventLog(paths.events)
        self._metrics = MetricsFile(paths.metrics, step=step, warn=warn)
        self._trackers = Feed(config, paths, step=step, warn=warn)
        self._phase = RunPhase.STARTING
        self._phase_started = time.monotonic()
        self._training_seconds = 0.0
        self._step = step
        self._num_reports = 0
        self._latest: dict[str, float] = {}

    def phase(self, name: str, **fields: Any) -> None:
        """The run enters a phase."""
        self._close_phase()
        self._phase = RunPhase.TRAINING if name == "training" else RunPhase.EVALUATING
        self._events.write("phase", name=name, **fields)
        logger.info("phase: %s", name)
        self._report_state()

    def step(self, step: int, numbers: Mapping[str, float]) -> float | None:
        """Record an optimizer step; returns the mean reward received since the last one, None without any."""
        self._step = step
        self._latest = {
            **numbers,
            **self._arrivals.metrics(),
            **count_metrics(self._inbox.queue.counts()),
            **self._worker_metrics(),
            **self._curriculum.metrics(),
        }
        self._metrics.write(step, self._latest)
        self._trackers.scalars(step, self._latest)
        self._report_state()
        return self._latest.get("received/reward_mean")

    def settings_changed(self, config: RunConfig, step: int, changed: Mapping[str, tuple[Any, Any]]) -> None:
        """Keys of the configuration have new values, beginning with the step after ``step``."""
        self._config = config
        self._hub.total_steps = config.steps
        self._events.write("set", step=step, keys=sorted(changed), changes={k: list(v) for k, v in changed.items()})
        if "steps" in changed:
            self._events.write("phase", name="training", total_steps=config.steps)

    def ends_early(self, reason: str) -> None:
        """Training ends before its last step, and this is why."""
        if self._step < self._config.steps:
            self._events.write("ends_early", step=self._step, steps=self._config.steps, reason=reason)
        logger.info("training ends at step %d: %s", self._step, reason)

    def measured(self, when: str, step: int, evaluation: Evaluation, samples: Sequence[Mapping[str, Any]]) -> None:
        """Record a held-out evaluation and some of its samples."""
        with open(self._paths.samples, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in samples)
        self._trackers.table(step, "samples", samples)
        self._events.write(
            "accuracy", **{"when": when, "step": step, "value": evaluation.accuracy, **evaluation.to_json()}
        )
        self._metrics.write(step, evaluation.metrics())
        self._trackers.scalars(step, evaluation.metrics())
        if evaluation.unjudged:
            self._warn(
                f"evaluation {when}: {evaluation.unjudged} of {evaluation.samples} samples have no verdict and count "
                "neither way; see the log of the verifier",
            )
        if len(evaluation.versions) > 1:
            self._warn(f"evaluation {when} was sampled by versions {evaluation.versions}")

    def summarize(
        self,
        *,
        step: int,
        before: Mapping[str, Any] | None,
        after: Evaluation | None,
        best: Mapping[str, Any] | None,
        lag_tokens: Mapping[int, int],
    ) -> None:
        """Write ``summary.json``."""
        self._close_phase()
        summary = run_summary(
            self._config,
            step=step,
            before=before,
            after=after,
            best=best,
            counts=self._inbox.queue.counts(),
            rejections=self._inbox.queue.rejections(),
            lag_tokens=lag_tokens,
            stalls=[report.stall_seconds for report in self._policy.reports()],
            weight_mismatches=self._policy.num_mismatches,
            # A run without training steps has no training seconds.
            tokens_per_second=self._arrivals.sampled_tokens / max(self._training_seconds, 1e-9),
            events=read_json_lines(self._paths.events),
        )
        write_json(self._paths.summary, summary)
        self._trackers.result(summary)

    def finished(self, phase: RunPhase, message: str = "") -> None:
        """The run ends."""
        self._phase = phase
        self._report_state(message)
        self._metrics.close()
        self._trackers.close(CLOSE_SECONDS if phase is RunPhase.FINISHED else STOP_SECONDS)

    def _worker_metrics(self) -> dict[str, float]:
        reports, num_reports = self._policy.reports(), self._policy.num_reports
        # The service keeps only the last MAX_REPORTS, so there may be fewer than were counted.
        new = min(num_reports - self._num_reports, len(reports))
        stalls = [report.stall_seconds for report in reports[len(reports) - new :]]
        updates = [report.update_seconds for report in reports[len(reports) - new :]]
        self._num_reports = num_reports
        numbers = {
            "rollout/workers": float(sum(w.connected for w in self._inbox.workers())),
            "rollout/weight_updates": float(num_reports),
        }
        if stalls:
            numbers["rollout/stall_seconds_p50"] = percentile(stalls, 0.5)
            numbers["rollout/stall_seconds_max"] = max(stalls)
            numbers["rollout/update_seconds_p50"] = percentile(updates, 0.5)
            numbers["rollout/update_seconds_max"] = max(updates)
        return numbers

    def _close_phase(self) -> None:
        now = time.monotonic()
        if self._phase is RunPhase.TRAINING:
            self._training_seconds += now - self._phase_started
        self._phase_started = now

    def _report_state(self, message: str = "") -> None:
        self._hub.send(
            self._phase, self._step, metrics=self._latest, counts=self._inbox.queue.counts(), message=message
        )


def count_metrics(counts: GroupCounts) -> dict[str, float]:
    """Where the training groups are."""
    return {
        "groups/received": float(counts.received),
        "groups/consumed": float(counts.consumed),
        "groups/queued": float(counts.queued),
        "groups/dropped": float(sum(counts.dropped.values())),
        **{f"groups/dropped/{reason}": float(count) for reason, count in counts.dropped.items()},
    }
