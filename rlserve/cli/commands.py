"""Subcommands: each names a module with ``add_arguments(parser)`` and ``run(arguments) -> exit code``."""

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand and its module, which is imported only when needed."""

    name: str
    module: str
    help: str


def declare(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", command: Command, *, whole: bool
) -> None:
    """Add a subcommand; with ``whole``, import its module for its arguments."""
    subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
    if whole:
        importlib.import_module(command.module).add_arguments(subparser)


def run_chosen(commands: Sequence[Command], name: str, arguments: argparse.Namespace) -> int:
    """Run the command called ``name``; returns the exit code."""
    module = next(command.module for command in commands if command.name == name)
    return int(importlib.import_module(module).run(arguments))
