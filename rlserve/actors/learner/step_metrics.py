"""The metrics of one optimizer step: a pure function of what the loop did."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlserve.actors.learner.train.engine import StepReport
from rlserve.batching.collate import OptimizerBatch
from rlserve.batching.summary import summarize
from rlserve.models.throughput import GIB
from rlserve.records import RolloutGroup
from rlserve.weight_sync.publication import PublishTimes

SEQUENCES = ("batch/sequences", "batch/sequences_without_gradient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Whether a step gave the workers its weights."""

    reason: str | None
    """Why it did, see ``why_sync``; None when it did not."""
    steps_since: int
    """Steps since the workers' weights; 0 when it did."""
    reference_refreshed: bool
    seconds: float
    """In which training stood still for publishing."""
    times: PublishTimes
    """Of the last version that was announced."""


def step_metrics(
    *,
    groups: Sequence[RolloutGroup],
    batches: Sequence[OptimizerBatch],
    report: StepReport,
    sync: Sync,
    version: int,
    lr: float,
    wait_seconds: float,
    batch_seconds: float,
) -> dict[str, float]:
    """All that a step measured; ``version`` is that of the weights it began with."""
    return {
        **summarize(groups, version),
        **{name: sum(batch.summary[name] for batch in batches) for name in SEQUENCES},
        # Without the loss, which is learner/loss below.
        **{f"algorithm/{name}": value for name, value in report.metrics.items() if name != "loss"},
        "sync/steps_since": float(sync.steps_since),
        "sync/by_divergence": float(sync.reason == "divergence"),
        "sync/reference_refreshed": float(sync.reference_refreshed),
        "learner/loss": report.loss,
        "learner/grad_norm": report.grad_norm,
        "learner/lr": lr,
        "learner/skipped_steps": float(report.skipped_steps),
        "learner/updates": float(report.updates),
        "learner/step_seconds": report.seconds,
        "learner/publish_seconds": sync.seconds,
        **sync.times.metrics(),
        "learner/wait_seconds": wait_seconds,
        "learner/batch_seconds": batch_seconds,
        **_speed(report),
    }


def _speed(report: StepReport) -> dict[str, float]:
    gpu_seconds = report.seconds * report.ranks
    known = {
        "learner/tokens_per_second_per_gpu": report.tokens / gpu_seconds,
        "learner/peak_gib": report.peak_bytes / GIB,
    }
    if report.planned_bytes:
        known["learner/peak_over_plan"] = report.peak_bytes / report.planned_bytes
    if report.expert_load:
        known["learner/expert_load"] = report.expert_load
    # No card is known to be the peak: no number is better than one against a guess.
    return known | ({"learner/mfu": report.flops / (gpu_seconds * report.peak_flops)} if report.peak_flops else {})
