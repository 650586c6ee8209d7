"""``rlserve bench staleness``: the cost of lag, with and without importance ratios.

Weights are published every L steps, and tokens may be one period older: lag therefore runs from 0 to about L, whatever
the speed of the machine. Start, task and budget of samples are those of ``rlserve bench learn``.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rlserve.bench.learn.compare import choose, run_all, write
from rlserve.bench.learn.methods import CONSTANT, Method
from rlserve.bench.learn.runs import Curve, prepare

LAGS = (0, 1, 2, 4, 8, 16)
VARIANTS = {"ratio": ("with ratios", "token_truncate"), "none": ("without", "off")}
LR = 4e-4
"""Twice the quick start's, so that the policy moves further within the lag and its cost becomes visible."""


def _method(lag: int, name: str) -> Method:
    """The method with lag up to ``lag``; with 0 it samples and trains in turn."""
    title, importance = VARIANTS[name]
    algorithm = {"type": "reinforce", "advantage": "group_std", "importance": importance, **CONSTANT}
    changes = {
        "algorithm": algorithm,
        "learner": {"max_lag": min(lag, 1), "lr": LR},
        "sync": {"every_steps": max(lag, 1)},
    }
    return Method(name=f"lag_{lag}_{name}", title=f"lag up to {lag}, {title}", changes=changes)


METHODS = tuple(_method(lag, name) for lag in LAGS for name in VARIANTS)


def measure(
    *,
    config: str = "configs/quickstart.toml",
    out: str = "runs/bench-staleness",
    seeds: int = 3,
    only: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Final accuracy, effective sample size and lag of each method: means over seeds, and the range of the result."""
    chosen = choose(METHODS, only)
    grounds = (prepare(config, Path(out), seed, chosen) for seed in range(seeds))
    curves = run_all(chosen, grounds, keep=keep, describe=lambda c: f"{c.accuracy_after:.3f}")
    write(Path(out) / "staleness", curves, {method.name: method.title for method in chosen})
    return {name: _summary(found) for name, found in curves.items()}


def _summary(curves: Sequence[Curve]) -> dict[str, Any]:
    after = [curve.accuracy_after for curve in curves]
    return {
        "after": round(mean(after), 3),
        "after_range": f"{min(after):.3f} to {max(after):.3f}",
        "accuracy_over_the_run": round(mean(mean(c.accuracy) for c in curves), 3),
        "ess_mean": round(mean(mean(c.ess) for c in curves), 3),
        "ess_min": round(min(min(c.ess) for c in curves), 3),
        "lag_mean": round(mean(mean(c.lag) for c in curves), 2),
        "lag_most": round(max(max(c.lag) for c in curves), 1),
    }
