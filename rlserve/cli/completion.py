"""``rlserve completion``: the script with which a shell completes commands, options and files."""

import argparse
from collections.abc import Iterator

import shtab


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="bash: eval it in ~/.bashrc")


def run(arguments: argparse.Namespace) -> int:
    # Here: that module imports this one for its arguments.
    from rlserve.cli.main import EVERY, build_parser

    parser = build_parser(EVERY)
    for action in _actions(parser):
        if action.choices is None and action.nargs != 0:
            # Most values are files, and a shell that offers none would not complete their paths either.
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action
