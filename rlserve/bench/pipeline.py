"""``rlserve bench pipeline``: generating and training at the same time, against taking turns.

Each role is pinned to a core of its own, since two cores that both roles share are never idle. Lengths have a long tail
(some problems have four times as many digits), since a synchronous step waits for its last sample. The baselines are
the same two pools in turn, and one colocated pool in which each role has both cores in its turn. All train on the same
number of samples.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rlserve.bench.learn.compare import choose, run_all
from rlserve.bench.learn.methods import GRPO, Method
from rlserve.bench.learn.runs import prepare

STEPS = 14  # any value of this size will do: over 3,000 samples, in which long ones are frequent
LONG_TASKS = {"plugin": "arithmetic", "options": {"min_digits": 18, "max_digits": 22}}
CONTEXT = {"model": {"max_length": 240}}
TASK: dict[str, Any] = {
    "environments": [
        {"name": "arithmetic", "weight": 0.9},
        {"name": "long", "weight": 0.1, "eval_weight": 0, **LONG_TASKS},
    ],
    "rollout": {"max_new_tokens": 160},
    # All groups are trained on, also those without gradient: a step then takes the same number of samples everywhere.
    "algorithm": {**GRPO, "zero_variance": "keep", "constant_length": 160},
    "steps": STEPS,
    "stop_groups": None,
    "evaluate": {"problems": 200},
}
PINNED = {"launch": {"cores": {"learner": [0], "rollout": [1]}}}


def _learner(max_lag: int, threads: int) -> dict[str, Any]:
    """With lag, a second batch is sampled during training, and the longest answers may take several steps."""
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
    """Seconds a step, and the pipeline's speed divided by that of each baseline, seed by seed."""
    chosen = choose(METHODS, only)
    grounds = (prepare(config, Path(out), seed, [], changes=CONTEXT) for seed in range(seeds))
    curves = run_all(chosen, grounds, keep=keep, describe=lambda c: f"{c.seconds[-1]:.1f} s")
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
