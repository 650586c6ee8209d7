"""``rlserve env``: environments of a running run, and new ones."""

import argparse

from rlserve.cli.commands import Command, declare, run_chosen

ACTIONS = (
    Command("register", "rlserve.cli.env.register", "add a server's environments to a run, from its next task on"),
    Command("unregister", "rlserve.cli.env.unregister", "remove an environment from a run"),
    Command("list", "rlserve.cli.env.list", "list the environments registered with a hub, or installed here"),
    Command("sample", "rlserve.cli.env.sample", "print some tasks"),
    Command("check", "rlserve.cli.env.check", "check that an environment, local or remote, keeps its promises"),
    Command("new", "rlserve.cli.env.new", "write a package with a working environment and its test"),
    Command("decontaminate", "rlserve.cli.env.decontaminate", "overlap of a task file with an evaluation file"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in ACTIONS:
        declare(actions, action, whole=True)


def run(arguments: argparse.Namespace) -> int:
    return run_chosen(ACTIONS, arguments.action, arguments)
