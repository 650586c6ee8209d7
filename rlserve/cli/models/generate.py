"""``rlserve generate``: graded samples of a model as a file, through the same actors that train."""

import argparse
import json
from pathlib import Path

from rlserve.config.load import load_run
from rlserve.errors import InvalidRequest
from rlserve.library.measure import config_of, model_of, ran_once, samples_of, sampling_config


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
    asked = {
        "problems": arguments.problems,
        "samples": arguments.samples,
        "temperature": arguments.temperature,
        "held_out": arguments.held_out,
    }
    with ran_once(lambda directory: sampling_config(base, model, directory, **asked)) as (config, status):
        if status == 0:
            rows = samples_of(config)
            arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"{len(rows)} samples in {arguments.out}")
        return status
