"""``rlserve bench load``: the time of the quick start beside busy processes, divided by its time alone.

Two processes that compute without end take half of two cores, so that a run beside them takes at least twice its time
alone. The rest of the ratio is lost: to threads that wait for each other, to time limits that ran out and to repeated
work. Runs alternate, alone and beside, with the same seed.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rlserve.config.paths import RunPaths
from rlserve.errors import RlserveError
from rlserve.observability.summary import read_json

BUSY_PROCESSES = 2
"""As many as the quick start's busy roles (learner, rollout worker): the kernel then gives each half of its time."""
RUN_SECONDS = 3600.0
"""Limit of one run. Any value will do that a working run does not reach."""
SPIN = "while True: pass"
TARGET = 2.5
"""Largest ratio; 2 is the least possible."""


def measure(
    *,
    config: str = "configs/quickstart.toml",
    out: str = "runs/bench-load",
    seeds: int = 1,
    only: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Seconds of each phase alone and beside busy processes, their ratio, and the accuracy after either run.

    ``only`` is ``alone`` or ``beside``; ``keep`` reads the results of earlier runs instead of repeating them.
    """
    kinds = [kind for kind in ("alone", "beside") if not only or kind in only]
    summaries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for seed in range(seeds):
        for kind in kinds:  # alternating, so that a machine that becomes slower does so for both
            with _busy(BUSY_PROCESSES if kind == "beside" else 0):
                summaries[kind].append(_run(config, Path(out), f"{kind}-{seed}", seed, keep=keep))
    result: dict[str, Any] = {kind: _numbers(found) for kind, found in summaries.items()}
    if len(kinds) == 2:
        alone, beside = result["alone"]["seconds"], result["beside"]["seconds"]
        result["ratio"] = {phase: beside[phase] / alone[phase] for phase in alone if beside.get(phase) and alone[phase]}
        result["target"] = f"total at most {TARGET:g}"
    return result


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    # -S: without the module site a process starts in milliseconds and holds a few megabytes.
    spinning = [subprocess.Popen([sys.executable, "-S", "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _run(config: str, out: Path, name: str, seed: int, *, keep: bool) -> dict[str, Any]:
    paths = RunPaths(out / name)
    if not (keep and paths.summary.exists()):
        chosen = [f"--set={key}={value}" for key, value in (("directory", out), ("name", name), ("seed", seed))]
        command = [sys.executable, "-m", "rlserve.cli.main", "run", config, *chosen, "--overwrite"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
        if done.returncode:
            raise RlserveError(
                f"bench: {name} ended with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        print(f"{name}: {read_json(paths.summary)['wall_seconds']['total']} s", flush=True)
    return dict(read_json(paths.summary))


def _numbers(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    phases = summaries[0]["wall_seconds"]
    return {
        "seconds": {name: median(float(s["wall_seconds"].get(name, 0.0)) for s in summaries) for name in phases},
        "steps": [s.get("steps") for s in summaries],
        "accuracy_after": [s["accuracy_after"] for s in summaries],
    }
