"""``rlserve generate``: graded samples of a model as a file, through the same actors that train."""

import argparse
import json
import tempfile
from pathlib import Path

from rlserve.cli.runs.measure import config_of, model_of, run_once
from rlserve.config.load import load_run, merge, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.observability.events import read_json_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Fields: environment, task_id, prompt, completion, reward (null without a verdict), right, truncated. "
        "`rlserve pairs` makes preference pairs and examples from such files."
    )
    parser.add_argument("model", help="a checkpoint directory, or a run directory for its newest checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file to write")
    parser.add_argument("--config", help="TOML file of a run; default: the run's own config.toml")
    parser.add_argument("--problems", type=int, default=1000, help="tasks of the training split (default 1000)")
    parser.add_argument("--samples", type=int, default=1, help="completions per task (default 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--held-out", action="store_true", help="use the held-out split instead")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove a key or a table")


def run(arguments: argparse.Namespace) -> int:
    # Before the run: minutes of sampling should not end at a name that is taken.
    if arguments.out.exists():
        raise InvalidRequest(f"--out: {str(arguments.out)!r} exists already; give a new name")
    if not arguments.out.resolve().parent.is_dir():
        raise InvalidRequest(f"--out: there is no directory {str(arguments.out.parent)!r}; make it first")
    given = Path(arguments.model)
    model = model_of(given)
    base = load_run([config_of(given, arguments.config)], arguments.overrides, arguments.unset)
    with tempfile.TemporaryDirectory(prefix="rlserve-generate-") as directory:
        config = _config(base, model, arguments, directory)
        status = run_once(config)
        if status == 0:
            count = _copy(RunPaths(Path(config.directory) / config.name).samples, arguments.out)
            print(f"{count} samples in {arguments.out}")
        return status


def _copy(samples: Path, out: Path) -> int:
    """Write the samples without the measurement's name, which has no meaning here; returns their number."""
    rows = [{k: v for k, v in row.items() if k != "when"} for row in read_json_lines(samples)]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def _config(config: RunConfig, model: str, arguments: argparse.Namespace, directory: str) -> RunConfig:
    # Sampling needs none of these, and teachers would be started for nothing.
    left_out = {"pretrain", "sft", "teachers", "algorithm", "reference", "trackers"}
    values = config.model_dump(exclude_none=True, exclude=left_out)
    change = {
        "name": "generate",
        "directory": directory,
        "steps": 0,
        "model": {"path": model},
        "evaluate": {
            "problems": arguments.problems,
            "samples": arguments.samples,
            "temperature": arguments.temperature,
            "from_training": not arguments.held_out,
            # All samples. The measurement splits the problems over environments and may round each share up.
            "keep": arguments.problems + len(config.environments),
        },
    }
    return validate(RunConfig, merge(values, change))
