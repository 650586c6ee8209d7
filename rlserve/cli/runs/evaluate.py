"""``rlserve eval``: held-out accuracy and reward of a checkpoint, through the same actors that train."""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.cli.runs.measure import config_of, measurement, model_of, run_once
from rlserve.config.load import load_run, merge, validate
from rlserve.config.run import RunConfig
from rlserve.observability.outcome import measure_lines, measured_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a checkpoint directory, or a run directory for its newest checkpoint")
    parser.add_argument("--config", help="TOML file of a run; default: that of the run to which the model belongs")
    parser.add_argument("--problems", type=int, help="held-out tasks")
    parser.add_argument("--samples", type=int, help="completions per task")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove a key or a table")
    parser.add_argument("--json", action="store_true", help="print only the result, as JSON")


def run(arguments: argparse.Namespace) -> int:
    given = Path(arguments.model)
    model = model_of(given)
    base = load_run([config_of(given, arguments.config)], arguments.overrides, arguments.unset)
    # A measurement leaves nothing behind, and never touches the run that it measures.
    with tempfile.TemporaryDirectory(prefix="rlserve-eval-") as directory:
        config = _evaluation_config(base, model, arguments, directory)
        status = run_once(config)
        # Inside the with block: the events are read before the directory goes.
        if status == 0:
            _print(measurement(config), as_json=arguments.json)
        return status


def _evaluation_config(config: RunConfig, model: str, arguments: argparse.Namespace, directory: str) -> RunConfig:
    # The model exists: with [pretrain] beside model.path the configuration would be refused. Trackers show runs alone.
    values = config.model_dump(exclude_none=True, exclude={"pretrain", "sft", "trackers"})
    asked = {"problems": arguments.problems, "samples": arguments.samples, "temperature": arguments.temperature}
    change = {
        "name": "eval",
        "directory": directory,
        "steps": 0,
        "model": {"path": model},
        # What the command line leaves open keeps the run's own value.
        "evaluate": {key: value for key, value in asked.items() if value is not None},
    }
    return validate(RunConfig, merge(values, change))


def _print(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value for name, value in found.items() if name != "text"}))
        return
    print(f"held-out accuracy {measured_text(found)}")
    for line in measure_lines(found):
        print(line)
