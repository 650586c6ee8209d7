"""``rlserve plan CONFIG``: what memory each process of a run takes, and whether it fits; starts nothing."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlserve.cli.runs.run import SET_HELP, UNSET_HELP
from rlserve.config.load import load_run
from rlserve.config.run import RunConfig
from rlserve.config.shipped import found
from rlserve.errors import ConfigError, InvalidRequest
from rlserve.launch.gpus import needs_of
from rlserve.launch.memory.check import UNKNOWN, lines, this_machine
from rlserve.launch.memory.fit import problems
from rlserve.launch.memory.plan import plan_memory
from rlserve.launch.memory.shapes import shape_of
from rlserve.launch.preflight.check import refuse_faults
from rlserve.launch.preflight.finding import Finding
from rlserve.memory.machine import Machine, named, of
from rlserve.memory.shape import ModelShape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="+", help="TOML files, later ones over earlier ones, or shipped ones by name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=SET_HELP)
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help=UNSET_HELP)
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="of each GPU, instead of those here or in the file's first line"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="with --gpu-memory: how many; default: as many as needed")
    parser.add_argument("--memory", type=float, metavar="GB", help="of the host, with --gpu-memory")
    parser.add_argument("--model-config", type=Path, metavar="FILE", help="config.json of a model that is not here")


def run(arguments: argparse.Namespace) -> int:
    config = load_run(arguments.config, arguments.overrides, arguments.unset)
    shape = _shape(config, arguments.model_config)
    machine = _machine(arguments, config)
    print("\n".join(lines(plan_memory(config, machine, shape))))
    refuse_faults([Finding(message) for message in problems(config, machine, shape)])
    print(f"fits {machine.name}")
    return 0


def _shape(config: RunConfig, given: Path | None) -> ModelShape:
    shape = ModelShape.read(given) if given else shape_of(config)
    if shape is None and given:
        raise ConfigError(f"--model-config: {str(given)!r} is no config.json of a decoder with gated layers; give one")
    if shape is None:
        raise ConfigError(f"model.path: is {config.model.path!r}, and {UNKNOWN}")
    return shape


def _machine(arguments: argparse.Namespace, config: RunConfig) -> Machine:
    """The machine of the options, else this one if it has GPUs or no file names one, else the one that a file names."""
    if arguments.gpu_memory is not None:
        count = arguments.gpus or sum(need.count for need in needs_of(config))
        return of(count, arguments.gpu_memory, arguments.memory or 0)
    if arguments.gpus is not None or arguments.memory is not None:
        raise InvalidRequest("--gpu-memory: give it with --gpus and --memory")
    machine = this_machine()
    return machine if machine.gpus else _first_named(arguments.config) or machine


def _first_named(files: Sequence[str]) -> Machine | None:
    for file in reversed(files):
        path = found(Path(file))
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        if machine := named(first):
            return replace(machine, name=f"{machine.name} ({path.name})")
    return None
