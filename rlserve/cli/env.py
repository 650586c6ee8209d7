"""``rlserve env``: environments of a run that goes on, and of one's own."""

import argparse
import importlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """A word after ``rlserve env`` and the module that has its ``add_arguments`` and ``run``."""

    name: str
    module: str
    help: str


ACTIONS = (
    Action("register", "rlserve.cli.env_register", "have a run draw tasks from a server, from its next task on"),
    Action("unregister", "rlserve.cli.env_unregister", "take an environment out of a run"),
    Action("list", "rlserve.cli.env_list", "what is registered with a hub, or installed here"),
    Action("sample", "rlserve.cli.env_sample", "print some tasks"),
    Action("check", "rlserve.cli.env_check", "the conformance suite, for any environment, ours or a stranger's"),
    Action("new", "rlserve.cli.env_new", "write a package with an environment that works, and its test"),
    Action("decontaminate", "rlserve.cli.env_decontaminate", "overlap of a task file with an evaluation file"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in ACTIONS:
        subparser = actions.add_parser(action.name, help=action.help, description=action.help)
        importlib.import_module(action.module).add_arguments(subparser)


def run(arguments: argparse.Namespace) -> int:
    module = next(action.module for action in ACTIONS if action.name == arguments.action)
    return int(importlib.import_module(module).run(arguments))
