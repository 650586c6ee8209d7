"""``rlserve env new``: writes a package with a working environment."""

import argparse
from pathlib import Path

from rlserve import plugins
from rlserve.cli.env.scaffold import write_package
from rlserve.cli.templates import multi_turn, single_turn, tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="registered name, e.g. dice")
    parser.add_argument("--directory", type=Path, help="where to write it (rlserve-NAME)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--multi-turn", action="store_true", help="one that answers over several turns")
    form.add_argument("--tools", action="store_true", help="one with a tool that the policy calls")


def run(arguments: argparse.Namespace) -> int:
    form = multi_turn if arguments.multi_turn else tools if arguments.tools else single_turn
    made = write_package(
        arguments.name,
        arguments.directory or Path(f"rlserve-{arguments.name.replace('_', '-')}"),
        group=plugins.ENVIRONMENT_GROUP,
        kind="Environment",
        description="An environment for rlserve",
        files={"{module}.py": form.MODULE, "test_{module}.py": form.TEST, "README.md": form.README},
    )
    print(f"wrote {made}: next, pip install -e {made} and rlserve env check {arguments.name}")
    return 0
