"""``rlserve eval``: held-out accuracy and reward of a checkpoint, through the same actors that train."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.config.load import load_run
from rlserve.library.measure import config_of, evaluation_config, measurement, model_of, ran_once
from rlserve.observability.outcome import measure_lines, measured_line


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
    asked = {"problems": arguments.problems, "samples": arguments.samples, "temperature": arguments.temperature}
    with ran_once(lambda directory: evaluation_config(base, model, directory, **asked)) as (config, status):
        if status == 0:
            _print(measurement(config), as_json=arguments.json)
        return status


def _print(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value for name, value in found.items() if name != "text"}))
        return
    print(measured_line(found))
    for line in measure_lines(found):
        print(line)
