"""``rlserve bench peer``: wall seconds to accuracy 0.9, and the cost of a step; runs are interleaved, seed by seed.

There are two clocks: ``seconds`` runs from the beginning of the first generation, with everything loaded;
``seconds_since_start`` from the command, imports and engine start included. The accuracy of a run is that of the
samples of its last 3 steps. All contestants take 32 prompts a step and train on all of them, even where all samples of
a prompt have the same reward.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rlserve.bench.learn.compare import REACHED, WINDOW
from rlserve.bench.learn.methods import GRPO, Method
from rlserve.bench.learn.runs import Ground, method_config, prepare
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.observability.events import read_json_lines
from rlserve.observability.metrics import STEP_METRIC

STEPS = 40  # limit of a run that does not reach the accuracy; any value of this size will do
RUN_SECONDS = 900.0  # limit of one run; any value will do that a working run does not reach
CONTESTANTS = {
    "rlserve": "rlserve, pipeline GRPO",
    "trl": "TRL GRPOTrainer, transformers generate",
    "trl_vllm": "TRL GRPOTrainer, vLLM colocated (three changes for the CPU build, see trl_run.py)",
}
PIPELINE = Method(
    name="peer",
    title="",
    changes={
        "algorithm": {**GRPO, "zero_variance": "keep"},
        "learner": {"max_lag": 6, "batches_ahead": 1},
        "evaluate": {"problems": 0},
        "steps": STEPS,
        "stop_groups": 10**6,
    },
)
BEGINNINGS = ("phase", "worker_joined")
"""Events of which the later one starts the clock ``seconds``: the learner's phase and the first worker."""
Line = Mapping[str, float]


def measure(
    *,
    config: str = "configs/quickstart.toml",
    out: str = "runs/bench-peer",
    seeds: int = 3,
    only: Sequence[str] = (),
    keep: bool = False,
) -> dict[str, Any]:
    """Numbers of each contestant, means over seeds, and the number of seeds in which rlserve was first."""
    for name in only:
        if name not in CONTESTANTS:
            raise InvalidRequest(f"--only: is {name!r}; give one of {', '.join(CONTESTANTS)}")
    chosen = list(only) or list(CONTESTANTS)
    found: dict[str, list[list[Line]]] = {name: [] for name in chosen}
    for seed in range(seeds):
        ground = prepare(config, Path(out), seed, [])
        # Each seed begins with another contestant, so that the same one does not always profit from warm caches.
        for name in [*chosen[seed % len(chosen) :], *chosen[: seed % len(chosen)]]:
            lines = _run(name, ground, keep=keep)
            found[name].append(lines)
            at = _at(lines)
            said = (
                f"{at['seconds_since_start']:.1f} s since the start, {at['seconds']:.1f} s of training"
                if at
                else "never"
            )
            print(f"  seed {seed}  {CONTESTANTS[name][:40]:42} {REACHED} after {said}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {name: _summary(runs) for name, runs in found.items()}
    if "rlserve" in found and len(found) > 1:
        for clock in ("seconds", "seconds_since_start"):
            result[f"seeds_in_which_rlserve_is_first_by_{clock}"] = f"{_won(found, clock)} of {seeds}"
    (Path(out) / "peer.json").write_text(json.dumps(found), encoding="utf-8")
    return result


def _run(name: str, ground: Ground, *, keep: bool) -> list[Line]:
    out = ground.root / f"{name}.jsonl"
    if not (keep and out.exists()):
        (_run_rlserve if name == "rlserve" else _run_trl)(ground, name, out)
    return list(read_json_lines(out))


def _run_rlserve(ground: Ground, name: str, out: Path) -> None:
    values = validate(RunConfig, method_config(PIPELINE, ground))
    file = ground.root / "peer.toml"
    file.write_text(to_toml(values), encoding="utf-8")
    # Processor time of children that were waited for, and of theirs: the run waits for its actors when it is
    # terminated.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.time()
    process = subprocess.Popen(
        # Without preflight checks: the peer makes none either.
        [sys.executable, "-m", "rlserve.cli.main", "run", str(file), "--overwrite", "--no-preflight"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    paths = RunPaths(ground.root / PIPELINE.name)
    lines: list[dict[str, float]] = []
    try:
        while process.poll() is None and not _at(lines) and time.time() - started < RUN_SECONDS:
            time.sleep(0.2)  # a small share of a step, which takes seconds
            lines = _rlserve_lines(paths, values, started)
    finally:
        process.terminate()
        process.wait(60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if not lines:
        raise RlserveError(f"bench: the run in {paths.root} made no step; see its logs")
    lines[-1]["processor_seconds"] = spent
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _rlserve_lines(paths: RunPaths, config: RunConfig, started: float) -> list[dict[str, float]]:
    if not paths.metrics.exists() or not paths.events.exists():
        return []
    times = [float(e["unix_seconds"]) for e in read_json_lines(paths.events) if e["event"] in BEGINNINGS]
    began = max(times, default=0.0)
    if began < started:  # the files of an earlier run, which --overwrite still has to remove
        return []
    return [
        {
            "step": row["step"],
            "samples": row["groups/received"] * config.rollout.group_size,
            "accuracy": row.get("received/accuracy") or 0.0,
            "seconds": row["unix_seconds"] - began,
            "seconds_since_start": row["unix_seconds"] - started,
        }
        for row in read_json_lines(paths.metrics)
        if STEP_METRIC in row
    ]


def _run_trl(ground: Ground, name: str, out: Path) -> None:
    config = ground.config
    options = {
        "engine": "vllm" if name == "trl_vllm" else "transformers",
        "model": config["model"]["path"],
        "out": str(out),
        "seed": ground.seed,
        "steps": STEPS,
        "stop_accuracy": REACHED,
        "window": WINDOW,
        "lr": config["learner"]["lr"],
        "warmup_steps": config["learner"]["warmup_steps"],
        "prompts_per_step": config["learner"]["groups_per_step"],
        "group_size": config["rollout"]["group_size"],
        "max_new_tokens": config["rollout"]["max_new_tokens"],
        "max_length": config["model"]["max_length"],
    }
    file = ground.root / f"{name}.json"
    file.write_text(json.dumps(options), encoding="utf-8")
    command = [sys.executable, "-m", "rlserve.bench.peer.trl_run", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS, env=dict(os.environ), check=False
    )
    if done.returncode:
        raise RlserveError(
            f"bench: {name} ended with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )


def _at(lines: Sequence[Line]) -> Line | None:
    """The first line at which the samples of the last WINDOW steps have accuracy REACHED; None when there is none."""
    # Over samples and not over steps: a step of rlserve may receive no group, as groups arrive when they are finished.
    right, samples = [0.0], [0.0]
    for line in lines:
        right.append(right[-1] + line["accuracy"] * (line["samples"] - samples[-1]))
        samples.append(line["samples"])
    for i in range(WINDOW, len(samples)):
        if right[i] - right[i - WINDOW] >= REACHED * max(samples[i] - samples[i - WINDOW], 1.0):
            return lines[i - 1]
    return None


def _summary(runs: Sequence[Sequence[Line]]) -> dict[str, Any]:
    at = [_at(lines) for lines in runs]
    there = [line for line in at if line is not None]
    last = [lines[-1] for lines in runs]
    numbers: dict[str, Any] = {"seeds": f"{len(there)} of {len(runs)} reached {REACHED}"}
    for clock in ("seconds", "seconds_since_start", "samples", "step"):
        numbers[f"{clock}_to_{REACHED}"] = [round(line[clock], 1) for line in there]
    numbers["samples_per_second"] = round(mean(line["samples"] / line["seconds"] for line in last), 1)
    numbers["processor_seconds_a_step"] = round(mean(line["processor_seconds"] / line["step"] for line in last), 2)
    return numbers


def _won(found: Mapping[str, Sequence[Sequence[Line]]], clock: str) -> int:
    def seconds(lines: Sequence[Line]) -> float:
        at = _at(lines)
        return at[clock] if at else float("inf")

    ours = [seconds(lines) for lines in found["rlserve"]]
    others = [[seconds(lines) for lines in runs] for name, runs in found.items() if name != "rlserve"]
    return sum(all(mine < theirs[i] for theirs in others) for i, mine in enumerate(ours))
