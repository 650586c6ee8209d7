"""Shared by ``rlserve pretrain`` and ``rlserve sft``: arguments, one table of a TOML file, progress lines."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from rlserve.config.base import Section
from rlserve.config.load import merge, parse_override, read_toml, validate
from rlserve.errors import ConfigError, InvalidRequest

S = TypeVar("S", bound=Section)


def add_common_arguments(parser: argparse.ArgumentParser, table: str) -> None:
    """Arguments of a stage; ``table`` is its table in the configuration."""
    parser.add_argument("config", help=f"TOML file with a [{table}] table; a run's configuration will do")
    parser.add_argument("--out", type=Path, required=True, help="new directory for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help=f"override one key, e.g. --set {table}.stage.steps=200",
    )


def load_table(arguments: argparse.Namespace, table: str, section: type[S]) -> S:
    """The validated table. Raises ConfigError if the file does not have it, InvalidRequest if the output exists."""
    # save_checkpoint refuses it as well, but only after the training.
    if arguments.out.exists():
        raise InvalidRequest(f"--out: {str(arguments.out)!r} exists already; give a new directory")
    values = read_toml(arguments.config)
    for text in arguments.overrides:
        values = merge(values, parse_override(text))
    if table not in values:
        raise ConfigError(f"config: {arguments.config!r} has no [{table}] table; see configs/quickstart.toml")
    # This table alone: a run's configuration may have others that do not concern the stage.
    return validate(section, values[table])


def print_progress(values: Mapping[str, float]) -> None:
    """One line per report."""
    print("  ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
