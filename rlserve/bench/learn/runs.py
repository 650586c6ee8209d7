"""The runs of a comparison: for each seed a start checkpoint, teachers and files, then an ``rlserve run`` a method."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve.bench.learn.methods import GROUPS, MAX_STEPS, OTHER, SAME, Method
from rlserve.config.load import load_run, merge, read_with_base, to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import read_json

# Limits of one preparation and one run. Any values will do that working ones do not reach.
PREPARE_SECONDS, RUN_SECONDS = 900.0, 900.0
EVALUATE_PROBLEMS = 1000
"""Held-out problems of a measurement: the standard error of its accuracy is below 0.016."""
LOOK_EVERY = 4
"""Steps between measurements of a method that samples nothing, whose curve consists of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The common start of all methods of a seed."""

    seed: int
    root: Path
    config: Mapping[str, Any]
    """The quick start's configuration with the path of the start checkpoint."""
    teachers: Mapping[str, str]
    """Paths of the teachers' models by name."""
    pairs: Path
    examples: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run: accuracy against its cost. ``accuracy[i]`` is that of the samples received before step ``steps[i]``."""

    accuracy_before: float
    accuracy_after: float
    samples: tuple[int, ...]
    """Number of sampled (or given) completions so far."""
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    """Time of waiting, training and publishing so far, without measurements."""
    accuracy: tuple[float, ...]
    ess: tuple[float, ...]
    lag: tuple[float, ...]


def prepare(
    config_file: str, out: Path, seed: int, wanted: Sequence[Method], *, changes: Mapping[str, Any] | None = None
) -> Ground:
    """Prepare the start, teachers and files of the ``wanted`` methods, except those that an earlier call made.

    ``changes`` override the configuration.
    """
    root = out / f"seed-{seed}"
    root.mkdir(parents=True, exist_ok=True)
    made = {
        **merge(read_with_base(config_file), changes or {}),
        "directory": str(root),
        "name": "ground",
        "seed": seed,
        "steps": 0,
    }
    teachers = [
        _teacher_section(name, made["pretrain"]) for name in (SAME, OTHER) if any(m.teacher == name for m in wanted)
    ]
    ground = RunPaths(root / "ground")
    ground.root.mkdir(exist_ok=True)
    ground.config.write_text(to_toml(validate(RunConfig, merge(made, {"teachers": teachers}))), encoding="utf-8")
    call([sys.executable, "-m", "rlserve.launch.prepare", str(ground.root)], PREPARE_SECONDS)
    values = {key: value for key, value in made.items() if key not in ("pretrain", "sft", "name", "steps")}
    paths = Ground(
        seed=seed,
        root=root,
        config=merge(values, {"model": {"path": str(ground.start_model.resolve())}}),
        teachers={name: str(ground.teacher(name).start_model.resolve()) for name in (SAME, OTHER)},
        pairs=root / "pairs.jsonl",
        examples=root / "examples.jsonl",
    )
    if any(m.given == "pairs" for m in wanted):
        _make_file(
            paths, str(ground.start_model), paths.pairs, problems=GROUPS, samples=8, how=("--pairs-per-prompt", "2")
        )
    if any(m.given == "examples" for m in wanted):
        _make_file(paths, paths.teachers[SAME], paths.examples, problems=GROUPS * 8, samples=1, how=("--examples",))
    return paths


def run(method: Method, ground: Ground, *, keep: bool = False) -> Curve:
    """Run a method and read its curve; with ``keep``, read the curve of an earlier run."""
    return trained(method, ground, method_config(method, ground), seconds=RUN_SECONDS, keep=keep)


def trained(method: Method, ground: Ground, values: Mapping[str, Any], *, seconds: float, keep: bool) -> Curve:
    """The curve of a run with these values, which name it by its method; ``seconds``: limit of the run."""
    paths = RunPaths(ground.root / method.name)
    if not (keep and paths.summary.exists()):
        file = ground.root / f"{method.name}.toml"
        file.write_text(to_toml(validate(RunConfig, values)), encoding="utf-8")
        call([sys.executable, "-m", "rlserve.cli.main", "run", str(file), "--overwrite"], seconds)
    return read_curve(paths, given=bool(method.given))


def read_curve(paths: RunPaths, *, given: bool = False) -> Curve:
    """The curve of a finished run; where nothing is sampled (``given``), accuracy comes from held-out measurements."""
    rows = [row for row in read_json_lines(paths.metrics) if "learner/lr" in row]
    config = load_run([paths.config])
    summary = read_json(paths.summary)
    measured = [e for e in read_json_lines(paths.events) if e["event"] == "accuracy" and e["value"] is not None]
    looks = {int(e["step"]): float(e["value"]) for e in measured}
    seconds = samples = 0.0
    points: list[tuple[int, int, float, float, float, float]] = []
    for row in rows:
        parts = ("learner/wait_seconds", "learner/step_seconds", "learner/publish_seconds")
        seconds += sum(row[part] for part in parts)
        samples = samples + row["batch/sequences"] if given else row["groups/received"] * config.rollout.group_size
        # None in a step that received no group, or in which nothing was measured: the curve has no point there.
        accuracy = looks.get(int(row["step"])) if given else row.get("received/accuracy")
        if accuracy is not None:
            ess = row.get("algorithm/ess") or 1.0
            points.append((int(samples), int(row["step"]), seconds, accuracy, ess, row["lag/mean"]))
    columns = list(zip(*points, strict=True)) or [()] * 6
    return Curve(
        accuracy_before=float(summary["accuracy_before"]),
        accuracy_after=float(summary["accuracy_after"]),
        samples=columns[0],
        steps=columns[1],
        seconds=columns[2],
        accuracy=columns[3],
        ess=columns[4],
        lag=columns[5],
    )


def method_config(method: Method, ground: Ground) -> dict[str, Any]:
    """The configuration of the run of a method."""
    fixed: dict[str, Any] = {
        "name": method.name,
        "steps": MAX_STEPS,
        "evaluate": {"problems": EVALUATE_PROBLEMS, "every_steps": LOOK_EVERY if method.given else 0},
        "checkpoint": {"every_steps": 0},
    }
    if not method.given:
        fixed["stop_groups"] = GROUPS
    if method.teacher:
        teacher = {
            "name": method.teacher,
            "model": ground.teachers[method.teacher],
            "dtype": "float32",
            "max_length": 64,
        }
        fixed["teachers"] = [{**teacher, "torch_threads": 1}]
    values = {key: value for key, value in ground.config.items() if key not in ("stop_reward", "algorithm")}
    # The methods are constants and name files of a seed by a word, which is replaced wherever it stands.
    text = json.dumps(merge(merge(values, fixed), method.changes))
    for name, path in (("PAIRS", ground.pairs), ("EXAMPLES", ground.examples)):
        text = text.replace(f'"{name}"', json.dumps(str(path.resolve())))
    return dict(json.loads(text))


def _teacher_section(name: str, pretrain: Mapping[str, Any]) -> dict[str, Any]:
    """A teacher's table as in ``configs/distill.toml`` or ``configs/distill_cross_tokenizer.toml``."""
    tuned = {
        "steps": 200,
        "batch_size": 32,
        "cooldown_steps": 40,
        "corpus": {"environment": "arithmetic", "options": {"worked_share": 1.0}},
    }
    common = {"name": name, "dtype": "float32", "max_length": 64, "sft": {"stage": tuned}}
    if name == SAME:
        return {**common, "model": "start"}
    return {**common, "pretrain": {**pretrain, "tokenizer": {"type": "bpe", "vocab_size": 300}}}


def _make_file(ground: Ground, model: str, out: Path, *, problems: int, samples: int, how: Sequence[str]) -> None:
    if out.exists():
        return
    config = out.with_suffix(
        ".toml"
    )  # without pretrain and sft, and of 0 steps: only the model and its environment count
    values = merge(ground.config, {"name": "made", "steps": 0})
    config.write_text(to_toml(validate(RunConfig, values)), encoding="utf-8")
    graded = out.with_suffix(".graded.jsonl")
    rlserve = [sys.executable, "-m", "rlserve.cli.main"]
    graded.unlink(missing_ok=True)
    asked = ["--problems", str(problems), "--samples", str(samples)]
    call([*rlserve, "generate", model, "--config", str(config), *asked, "--out", str(graded)], RUN_SECONDS)
    call([*rlserve, "pairs", str(graded), *how, "--out", str(out)], RUN_SECONDS)


def call(command: Sequence[str], seconds: float) -> None:
    """Run a command. Raises RlserveError with its last words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=dict(os.environ), check=False)
    if done.returncode:
        raise RlserveError(
            f"bench: `{' '.join(command[1:])}` ended with exit code {done.returncode}:\n"
            f"{(done.stdout + done.stderr)[-3000:]}"
        )
