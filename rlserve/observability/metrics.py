"""Declares every metric once (name, unit, meaning) and writes ``metrics.jsonl``.

The file has one line for each step and one for each held-out measurement, which has only ``evaluate/`` names.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rlserve.errors import UnknownName

logger = logging.getLogger(__name__)

STEP_METRIC = "learner/loss"
"""A metric in every line of a step and in no other line, which distinguishes the two kinds of line."""


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS: Mapping[str, MetricInfo] = {
    "received/reward_mean": MetricInfo("reward", "mean reward of the groups received since the last step"),
    "received/accuracy": MetricInfo("share", "samples judged right among those received since the last step"),
    "received/samples": MetricInfo("samples", "completions received, in all"),
    "batch/groups": MetricInfo("groups", "groups in the optimizer batch"),
    "batch/samples": MetricInfo("samples", "completions in the optimizer batch"),
    "batch/sequences": MetricInfo("sequences", "sequences trained on in the optimizer batch"),
    "batch/sequences_without_gradient": MetricInfo(
        "sequences", "of these, those with advantage 0, which only denominators count and the model does not see"
    ),
    "length/mean": MetricInfo("tokens", "mean sampled tokens of a completion of the batch"),
    "length/max": MetricInfo("tokens", "longest completion of the batch"),
    "length/min": MetricInfo("tokens", "shortest completion of the batch"),
    "length/p95": MetricInfo("tokens", "95th percentile of completion lengths of the batch"),
    "length/truncated_share": MetricInfo("share", "completions of the batch cut by the length limit"),
    "lag/mean": MetricInfo("versions", "mean age of the batch's sampled tokens"),
    "lag/p50": MetricInfo("versions", "median age of the batch's sampled tokens"),
    "lag/max": MetricInfo("versions", "age of the batch's oldest sampled token"),
    "lag/mixed_version_share": MetricInfo("share", "completions whose tokens carry more than one policy version"),
    "learner/loss": MetricInfo("nats", "loss of the optimizer batch"),
    "learner/grad_norm": MetricInfo("", "global gradient norm before clipping"),
    "learner/lr": MetricInfo("", "learning rate of the step"),
    "learner/skipped_steps": MetricInfo("steps", "steps skipped for a non-finite loss or gradient, in all"),
    "learner/step_seconds": MetricInfo("seconds", "forward, backward and update"),
    "learner/wait_seconds": MetricInfo("seconds", "waiting for a full batch"),
    "learner/batch_seconds": MetricInfo("seconds", "waiting for the batch's tensors, made while the last step ran"),
    "learner/publish_seconds": MetricInfo("seconds", "training stands still for the publication of weights"),
    "publish/seconds": MetricInfo("seconds", "last version announced: from its step to the announcement"),
    "publish/copy_seconds": MetricInfo("seconds", "of these, until its copy was made"),
    "publish/digest_seconds": MetricInfo("seconds", "of these, for digests and the announcement"),
    "publish/bytes_per_second": MetricInfo("bytes/s", "its size over its seconds"),
    "learner/tokens_per_second_per_gpu": MetricInfo(
        "tokens/s", "tokens that the model saw in learner/step_seconds, prompts included and padding not, a rank"
    ),
    "learner/mfu": MetricInfo("share", "of the FLOP/s that a known GPU could do, those that training takes"),
    "learner/expert_load": MetricInfo(
        "ratio", "of a mixture of experts: tokens of the busiest expert over those of a mean one, in the worst layer"
    ),
    "learner/peak_gib": MetricInfo("GiB", "most memory that a rank held: tensors on a GPU, the process on a CPU"),
    "learner/peak_over_plan": MetricInfo("share", "that peak over what the memory plan (rlserve plan) says"),
    "learner/updates": MetricInfo("updates", "optimizer updates made from the batch"),
    "sync/steps_since": MetricInfo("steps", "optimizer steps since workers were given new weights"),
    "sync/by_divergence": MetricInfo("", "1 when the divergence and not the period sent the weights"),
    "sync/reference_refreshed": MetricInfo("", "1 when the policy became the reference"),
    "rollout/tokens_per_second": MetricInfo("tokens/s", "sampled tokens per second, over all workers"),
    "rollout/stall_seconds_p50": MetricInfo("seconds", "generation stands still for a swap: median"),
    "rollout/stall_seconds_max": MetricInfo("seconds", "generation stands still for a swap: longest"),
    "rollout/update_seconds_p50": MetricInfo("seconds", "from the announcement of a version until it serves: median"),
    "rollout/update_seconds_max": MetricInfo("seconds", "from the announcement of a version until it serves: longest"),
    "rollout/weight_updates": MetricInfo("updates", "swaps confirmed by workers, in all"),
    "rollout/workers": MetricInfo("workers", "rollout workers on the stream"),
    "groups/received": MetricInfo("groups", "groups received, in all"),
    "groups/consumed": MetricInfo("groups", "groups trained on, in all"),
    "groups/queued": MetricInfo("groups", "groups waiting"),
    "groups/dropped": MetricInfo("groups", "groups dropped, in all"),
    "evaluate/accuracy": MetricInfo("share", "held-out samples judged right, of those that were judged"),
    "evaluate/reward_mean": MetricInfo("reward", "mean reward of the held-out samples that were judged"),
    "evaluate/problems": MetricInfo("problems", "held-out problems of the measurement"),
    "evaluate/samples": MetricInfo("samples", "held-out completions of the measurement"),
    "evaluate/no_verdict": MetricInfo("samples", "of these, those that no verifier could judge"),
}

PREFIXES = {
    "algorithm/": "what an algorithm's loss reports, see docs/algorithms.md",
    "reward/": "rewards of the batch as verified: mean, std and accuracy, over all and by environment",
    "received/": "the same numbers over all groups received since the last step, dropped ones included",
    "groups/dropped/": "groups dropped for one reason, in all",
    "evaluate/accuracy/": "the same share over the problems of one environment or set",
    "evaluate/reward_mean/": "the same mean over the problems of one environment or set",
    "evaluate/avg@": "mean over problems of the share of their samples judged right; a name behind it: of one set",
    "evaluate/pass@": "probability that one of k samples is right, unbiased; a name behind it: of one set",
    "evaluate/maj@": "probability that the most frequent answer of k samples is right; a name behind it: of one set",
    "evaluate/low/": "lower end of the 95% interval of the measure named behind it",
    "evaluate/high/": "upper end of the 95% interval of the measure named behind it",
    "curriculum/": "levels of environments that have any, from 0, and the pass rate over the last groups of the level",
}


def info(name: str) -> MetricInfo:
    """The declaration of a metric. Raises UnknownName when it is missing."""
    if name in METRICS:
        return METRICS[name]
    for prefix, meaning in PREFIXES.items():
        if name.startswith(prefix):
            return MetricInfo("", meaning)
    raise UnknownName(f"metric {name!r}: is not declared in rlserve.observability.metrics")


class MetricsFile:
    """Writes one line of JSON for each step.

    Its life, over a crash and a resumption::

        with MetricsFile(path) as metrics:
            metrics.write(1, {"learner/loss": 0.5})
            metrics.write(2, {"learner/loss": float("nan")})    # written as null
        # The run crashed, and resumes from the checkpoint of step 1:
        with MetricsFile(path, step=1) as metrics:              # cuts the line of step 2 off
            metrics.write(2, {"learner/loss": 0.4})
    """

    def __init__(self, path: Path, *, step: int | None = None, warn: Callable[[str], object] = logger.warning) -> None:
        """Continue the file after ``step``: cut off later lines and an incomplete one. None keeps all complete lines.

        ``warn`` receives one message for each name that is not declared.
        """
        _cut(path, step)
        self._file: TextIO = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._warn = warn
        self._unknown: set[str] = set()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of ``step``; a non-finite one is written as null."""
        for name in values:
            self._check(name)
        line = {"step": step, "unix_seconds": time.time(), **{k: _finite(v) for k, v in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # a process that is killed between two steps keeps its curve

    def _check(self, name: str) -> None:
        """Warn once of an undeclared name. It must not end a run: its numbers are as good as any."""
        try:
            info(name)
        except UnknownName as error:
            if name not in self._unknown:
                self._unknown.add(name)
                self._warn(f"{error}; its values are written nevertheless")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None  # JSON has neither NaN nor infinities


def _cut(path: Path, step: int | None) -> None:
    """Shorten the file to its complete lines of steps up to ``step``, which are the first ones: steps only grow."""
    if not path.exists():
        return
    kept = 0
    with open(path, "rb") as file:  # binary: truncate needs offsets in bytes
        for line in file:
            if not line.endswith(b"\n") or _is_later(line, step):
                break
            kept += len(line)
    if kept < path.stat().st_size:
        os.truncate(path, kept)


def _is_later(line: bytes, step: int | None) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return step is not None and isinstance(found, dict) and found.get("step", 0) > step


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; 0.0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
