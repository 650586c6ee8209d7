"""``rlserve bench pipeline``: generating and training at once, against taking turns.

Two cores that both roles share have nothing to idle, so each role is pinned to a core of its own; and lengths have a
long tail (a part of the problems has four times as many digits), since it is the last sample for which a synchronous
step waits. The baselines: the same two pools in turn, and one colocated pool, where each role in its turn has both
cores. All train on the same number of samples.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rlserve.bench.learn.compare import choose, run_all
from rlserve.bench.learn.methods import GRPO, Method
from rlserve.bench.learn.runs import prepare

STEPS = 14
LONG_TASKS = {"plugin": "arithmetic", "options": {"min_digits": 18, "max_digits": 22}}
CONTEXT = {"model": {"max_length": 240}}
TASK: dict[str, Any] = {
    "environments": [
        {"name": "arithmetic", "weight": 0.9},
        {"name": "long", "weight": 0.1, "eval_weight": 0, **LONG_TASKS},
    ],
    "rollout": {"max_new_tokens": 160},
    "algorithm": {**GRPO, "zero_variance": "keep", "constant_length": 160},
    "steps": STEPS,
    "stop_groups": None,
    "evaluate": {"problems": 200},
}
PINNED = {"launch": {"cores": {"learner": [0], "rollout": [1]}}}


def _learner(max_lag: int, threads: int) -> dict[str, Any]:
    """With lag, two batches are under way, and the longest answers may take several steps."""
    batches = {"batches_ahead": 1} if max_lag else {}
    return {"learner": {"max_lag": max_lag, "torch_threads": threads, **batches}}


METHODS = (
    Method(name="pipeline", title="pipeline, a core a role", changes={**TASK, **PINNED, **_learner(16, 1)}),
    Method(name="synchronous", title="pools in turn, a core a role", changes={**TASK, **PINNED, **_learner(0, 1)}),
    Method(name="colocated", title="one pool in turn, both cores", changes={**TASK, **_learner(0, 2)}),
)


def measure(
    *,
    config: str = "configs/quickstart.toml",
    out: str = "runs/bench-pipeline",
    seeds: int = 3,
    only: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Samples trained on a second, and the pipeline's speed over that of each baseline, seed by seed."""
    chosen = choose(METHODS, only)
    grounds = (prepare(config, Path(out), seed, [], changes=CONTEXT) for seed in range(seeds))
    curves = run_all(chosen, grounds, keep=keep, say=lambda c: f"{c.seconds[-1]:.1f} s")
    result: dict[str, Any] = {
        name: {
            "seconds_a_step": [round(c.seconds[-1] / c.steps[-1], 2) for c in found],
            "accuracy_after": [round(c.accuracy_after, 3) for c in found],
            "lag_mean": round(mean(mean(c.lag) for c in found), 2),
        }
        for name, found in curves.items()
    }
    for name in ("synchronous", "colocated"):
        if name in curves and "pipeline" in curves:
            pairs = zip(curves["pipeline"], curves[name], strict=True)
            result[f"speed_over_{name}"] = [round(theirs.seconds[-1] / ours.seconds[-1], 2) for ours, theirs in pairs]
    return result
