"""``rlserve eval``: held-out accuracy of a checkpoint, through the same actors that train."""

import argparse
import json
import tempfile
from pathlib import Path

from rlserve.cli import run as run_command
from rlserve.config.load import load_run, merge, to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.observability.summary import read_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run directory (its newest checkpoint is taken) or a checkpoint directory")
    parser.add_argument("--config", help="TOML file of a run; default: the run's own config.toml")
    parser.add_argument("--problems", type=int, help="held-out tasks")
    parser.add_argument("--samples", type=int, help="completions per task")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")


def run(arguments: argparse.Namespace) -> int:
    given = RunPaths(Path(arguments.model))
    config_file = config_of(given, arguments.config)
    with tempfile.TemporaryDirectory(prefix="rlserve-eval-") as directory:
        config = _evaluation_config(load_run([config_file], arguments.overrides), model_of(given), arguments, directory)
        status = run_once(config)
        if status == 0:
            summary = read_json(RunPaths(Path(config.directory) / config.name).summary)
            _print(summary, as_json=arguments.json)
        return status


def run_once(config: RunConfig) -> int:
    """A whole run of ``config`` in its (temporary) directory; returns the exit code."""
    path = Path(config.directory) / f"{config.name}.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    return run_command.run(
        argparse.Namespace(config=[str(path)], overrides=[], dry_run=False, resume=False, overwrite=False)
    )


def config_of(given: RunPaths, asked: str | None) -> Path:
    """The configuration to take: as asked, or the run's own. Raises InvalidRequest when it is not there."""
    path = Path(asked) if asked else given.config
    if not path.exists():
        raise InvalidRequest(f"--config: no file {str(path)!r}; give the configuration of a run")
    return path


def model_of(given: RunPaths) -> str:
    """Absolute path of the checkpoint that is meant. Raises InvalidRequest when there is none."""
    if not given.root.is_dir():
        raise InvalidRequest(f"model: no directory {str(given.root)!r}")
    from rlserve.actors.model_path import model_at

    return str(Path(model_at(str(given.root))).resolve())


def _evaluation_config(config: RunConfig, model: str, arguments: argparse.Namespace, directory: str) -> RunConfig:
    values = config.model_dump(exclude_none=True, exclude={"pretrain", "sft"})
    asked = {"problems": arguments.problems, "samples": arguments.samples, "temperature": arguments.temperature}
    change = {
        "name": "eval",
        "directory": directory,
        "steps": 0,
        "model": {"path": model},
        "evaluate": {key: value for key, value in asked.items() if value is not None},
    }
    return validate(RunConfig, merge(values, change))


def _print(summary: dict[str, object], *, as_json: bool) -> None:
    accuracy = summary.get("accuracy_before")
    print(json.dumps({"accuracy": accuracy}) if as_json else f"held-out accuracy {accuracy}")
