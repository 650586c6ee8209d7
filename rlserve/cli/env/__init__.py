"""``rlserve env``: environments of a running run, and new ones; a module per action.

* ``register``, ``unregister``  adds a server's environments to a run, removes one
* ``list``           environments of a run, or installed here
* ``sample``         prints some tasks
* ``check``          the conformance suite
* ``new``            writes a package with an environment
* ``decontaminate``  overlap of a training file with an evaluation file

* ``overlap``   word n-grams that two texts share, for ``decontaminate``
* ``scaffold``  writes a new package, for ``env new`` and ``verifier new``

To add an action: a module here and its line in ``ACTIONS``.
"""

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
