"""``rlserve bench real_model``: a real instruct model learns sums asked in chat, by each method over several seeds.

The configuration is ``configs/smollm2.toml``; what a method changes in it is in ``methods``. Curves and figures are in
``docs/real_model.md``.
"""

import sys
from pathlib import Path
from typing import Any

from rlserve.bench.learn.compare import choose, summary, write
from rlserve.bench.learn.methods import Method
from rlserve.bench.learn.runs import Curve, call, read_curve
from rlserve.config.load import merge, read_toml, read_with_base, to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig

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
    curves: dict[str, list[Curve]] = {method.name: [] for method in chosen}
    for seed in range(seeds):
        for method in chosen:
            curve = _run(method, merge(values, {"seed": seed}), Path(out) / f"seed-{seed}", keep=keep)
            curves[method.name].append(curve)
            shown = f"{curve.accuracy_before:.3f} -> {curve.accuracy_after:.3f}"
            print(f"  seed {seed}  {method.title:42} {shown}", file=sys.stderr, flush=True)
    write(Path(out) / "real_model", curves, {method.name: method.title for method in chosen})
    return {name: summary(found) for name, found in curves.items()}


def methods() -> tuple[Method, ...]:
    """Full fine-tuning by GRPO and by DPO, which learns in half the steps, and adapters as they are configured."""
    return (
        Method(name="grpo_pipeline", title="pipeline GRPO", changes={}),
        Method(name="dpo_online", title="online DPO", changes={"algorithm": {"type": "dpo"}, "steps": 16}),
        Method(name="grpo_lora", title="pipeline GRPO, adapters", changes={"learner": read_toml(LORA)["learner"]}),
    )


def _run(method: Method, values: dict[str, Any], directory: Path, *, keep: bool) -> Curve:
    paths = RunPaths(directory / method.name)
    if not (keep and paths.summary.exists()):
        changes = {**method.changes, "directory": str(directory), "name": method.name}
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{method.name}.toml"
        file.write_text(to_toml(validate(RunConfig, merge(values, changes))), encoding="utf-8")
        call([sys.executable, "-m", "rlserve.cli.main", "run", str(file), "--overwrite"], RUN_SECONDS)
    return read_curve(paths)
