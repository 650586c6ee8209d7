"""The summary of a finished run, as plain data."""

from collections.abc import Iterable, Mapping
from typing import Any

from rlserve.actors.learner.measure.evaluation import Evaluation
from rlserve.config.run import RunConfig
from rlserve.observability.metrics import percentile
from rlserve.store.base import GroupCounts


def run_summary(
    config: RunConfig,
    *,
    step: int,
    before: Mapping[str, Any] | None,
    after: Evaluation | None,
    best: Mapping[str, Any] | None,
    counts: GroupCounts,
    rejections: Mapping[str, int],
    lag_tokens: Mapping[int, int],
    stalls: list[float],
    weight_mismatches: int,
    tokens_per_second: float,
    events: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """What ``summary.json`` holds; the launcher adds wall seconds.

    ``stalls`` has the seconds of each weight update for which generation stood still, ``lag_tokens`` trained tokens
    by lag.
    """
    return {
        "name": config.name,
        "algorithm": config.algorithm.type,
        "seed": config.seed,
        "accuracy_before": before["accuracy"] if before else None,
        "accuracy_after": after.accuracy if after else None,
        "reward_before": before["reward_mean"] if before else None,
        "reward_after": after.reward_mean if after else None,
        "evaluations": {"before": before, "after": after.to_json() if after else None},
        "best": best,
        "steps": step,
        "weight_updates": len(stalls),
        "weight_mismatches": weight_mismatches,
        "tokens_per_second": round(tokens_per_second, 1),
        "stall_seconds": {"p50": round(percentile(stalls, 0.5), 5), "p99": round(percentile(stalls, 0.99), 5)},
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
        "rejected": dict(rejections),
        "recovery_seconds": {
            str(e["actor"]): float(e["seconds"]) for e in events if e.get("event") == "actor_recovered"
        },
    }


def _weighted_median(counts: Mapping[int, int]) -> int:
    total, seen = sum(counts.values()), 0
    for value, count in sorted(counts.items()):
        seen += count
        if 2 * seen >= total:
            return value
    return 0
