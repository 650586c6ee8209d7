"""Stage: ``rlserve run`` of GRPO with learner and engine on one GPU, and what its own metrics say.

The model is random, so the reward is too (``words``).
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rlserve.bench.gpu import words
from rlserve.bench.gpu.models import checkpoint
from rlserve.bench.gpu.rows import Row
from rlserve.bench.gpu.sizes import SHAPES, Sizes
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import read_json

METRICS = (
    "learner/step_seconds",
    "learner/wait_seconds",
    "learner/publish_seconds",
    "learner/mfu",
    "learner/peak_gib",
    "publish/seconds",
    "publish/copy_seconds",
    "publish/digest_seconds",
    "publish/bytes_per_second",
    "rollout/tokens_per_second",
    "rollout/stall_seconds_p50",
    "rollout/stall_seconds_max",
    "rollout/update_seconds_p50",
    "rollout/update_seconds_max",
    "algorithm/mismatch_kl",
    "algorithm/ess",
    "lag/mean",
    "lag/mixed_version_share",
)


def measure(sizes: Sizes, out: Path) -> Iterator[Row]:
    """One row of medians over the steps but the first, and one of the whole run."""
    config = _config(sizes, out)
    file = out / "whole_run.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    command = [sys.executable, "-m", "rlserve.cli.main", "run", str(file), "--overwrite"]
    status = subprocess.run(command, check=False).returncode
    paths = RunPaths(out / "runs" / config.name)
    steps = [line for line in read_json_lines(paths.metrics) if "learner/loss" in line]
    for name in METRICS:
        if values := [line[name] for line in steps[1:] if line.get(name) is not None]:
            yield {"what": name, "median": statistics.median(values), "all": values}
    summary = read_json(paths.summary)
    kept = ("steps", "weight_updates", "weight_mismatches", "tokens_per_second", "wall_seconds", "stall_seconds")
    yield {"what": "run", "exit": status, **{name: summary[name] for name in kept if name in summary}}


def _config(sizes: Sizes, out: Path) -> RunConfig:
    return validate(
        RunConfig,
        {
            "name": "whole-run",
            "seed": 0,
            "steps": sizes.run_steps,
            "directory": str(out / "runs"),
            "model": {"path": checkpoint(out, sizes.small, sizes.dtype), "max_length": 64 + sizes.new_tokens},
            "environments": [
                {
                    "name": "words",
                    "plugin": f"{words.__file__}:WordsEnvironment",
                    "options": {"vocabulary": SHAPES[sizes.small].vocabulary},
                }
            ],
            "rollout": {
                "group_size": 8,
                "max_groups_in_flight": 2 * sizes.groups_per_step,
                "max_new_tokens": sizes.new_tokens,
                "max_num_seqs": sizes.sequences,
                "dtype": sizes.dtype,
                "kv_cache_bytes": sizes.kv_cache_bytes,
                "gpu_memory_fraction": 0.5,
            },
            "learner": {
                "dtype": sizes.dtype,
                "lr": 1e-6,
                "groups_per_step": sizes.groups_per_step,
                "tokens_per_micro_batch": sizes.row_tokens,
                "max_lag": 2,
                "gradient_checkpointing": True,
                # As a GPU is used best; a CPU would compile for a minute.
                **({"compile": True, "packing": True} if sizes.dtype == "bfloat16" else {}),
            },
            "algorithm": {"type": "grpo", "advantage": "group_mean"},
            "evaluate": {"problems": 0},
            "checkpoint": {"every_steps": 0},
        },
    )
