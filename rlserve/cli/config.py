"""``rlserve config``: the shipped configurations, every key with its meaning, and a schema for editors."""

import argparse
import json
from itertools import takewhile

from rlserve.errors import InvalidRequest
from rlserve.nearest import known_names

ACTIONS = {
    "list": "the shipped configurations: rlserve run NAME starts one",
    "show": "print a shipped configuration, to begin your own with",
    "reference": "every key with its type, default and meaning, as Markdown",
    "schema": "the JSON schema of configurations, for editors",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name == "show":
            action.add_argument("name", help="one of rlserve config list, e.g. quickstart")


def run(arguments: argparse.Namespace) -> int:
    # Here: the sections are many, and `--help` is instant.
    from rlserve.config.editor_schema import editor_schema
    from rlserve.config.reference import reference
    from rlserve.config.shipped import shipped

    configurations = shipped()
    if arguments.action == "list":
        for name, file in configurations.items():
            print(f"{name:28} {_title(file.read_text(encoding='utf-8'))}")
    elif arguments.action == "show":
        if arguments.name not in configurations:
            known = known_names(arguments.name, configurations)
            raise InvalidRequest(f"name: {arguments.name!r} is no shipped configuration{known}")
        print(configurations[arguments.name].read_text(encoding="utf-8"), end="")
    elif arguments.action == "reference":
        print(reference(), end="")
    else:
        print(json.dumps(editor_schema(), indent=2))
    return 0


def _title(text: str) -> str:
    """The first sentence of the comment that a configuration begins with."""
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in comment).partition(". ")[0].removesuffix(".")
