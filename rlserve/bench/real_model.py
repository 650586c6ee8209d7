"""``rlserve bench real_model``: a real instruct model learns sums asked in chat, by each method over several seeds.

The configuration is ``configs/smollm2.toml``; what a method changes in it is in ``methods``. Curves and figures are in
``docs/real_model.md``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.bench.learn.compare import choose, gain, run_all, summary, write
from rlserve.bench.learn.methods import Method
from rlserve.bench.learn.runs import Curve, Ground, trained
from rlserve.config.load import merge, read_toml, read_with_base

LORA = "configs/smollm2_lora.toml"
RUN_SECONDS = 7200.0
"""Limit of one run. Any value will do that working ones do not reach: 15 minutes on two quiet cores."""


def measure(
    *,
    config: str = "configs/smollm2.toml",
    model: str = "",
    out: str = "runs/bench-real_model",
    seeds: int = 3,
    only: list[str] | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Held-out accuracy before and after, and the cost of accuracy 0.9: means and ranges over seeds.

    ``model`` replaces the configuration's, which is a Hub name. Writes ``real_model.json`` and plots to ``out``;
    ``keep`` reads the results of earlier runs instead of repeating them.
    """
    chosen = choose(methods(), only or [])
    values = merge(read_with_base(config), {"model": {"path": model}} if model else {})
    grounds = (_ground(values, Path(out), seed) for seed in range(seeds))
    curves = run_all(chosen, grounds, keep=keep, describe=gain, run=_run)
    write(Path(out) / "real_model", curves, {method.name: method.title for method in chosen})
    return {name: summary(found) for name, found in curves.items()}


def methods() -> tuple[Method, ...]:
    """Full fine-tuning by GRPO and by DPO, which learns in half the steps, and adapters as they are configured."""
    return (
        Method(name="grpo_pipeline", title="pipeline GRPO", changes={}),
        Method(name="dpo_online", title="online DPO", changes={"algorithm": {"type": "dpo"}, "steps": 16}),
        Method(name="grpo_lora", title="pipeline GRPO, adapters", changes={"learner": read_toml(LORA)["learner"]}),
    )


def _ground(values: Mapping[str, Any], out: Path, seed: int) -> Ground:
    root = out / f"seed-{seed}"
    root.mkdir(parents=True, exist_ok=True)
    config = merge(values, {"seed": seed, "directory": str(root)})
    return Ground(seed=seed, root=root, config=config, teachers={}, pairs=root, examples=root)


def _run(method: Method, ground: Ground, *, keep: bool) -> Curve:
    values = merge(ground.config, {**method.changes, "name": method.name})
    return trained(method, ground, values, seconds=RUN_SECONDS, keep=keep)
