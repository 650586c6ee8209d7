"""``rlserve data``: fetches well-known data sets, shows what is in any."""

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

from rlserve.data.fetch import fetch
from rlserve.data.known import KNOWN
from rlserve.data.source import Source, read
from rlserve.errors import InvalidRequest
from rlserve.observability.printable import printable

SHOWN_CHARACTERS = 400
"""Of one row. Any value of this size will do: a few lines of a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "write a well-known data set as files, for the environment of its name"
    fetching = actions.add_parser("fetch", help=text, description=text)
    fetching.add_argument("name", choices=sorted(KNOWN), help="data set, and environment that reads it")
    fetching.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="where to write it (data)")
    fetching.add_argument(
        "--from",
        dest="copy",
        default="",
        metavar="PATH",
        help="a copy of its Hub repository",
    )
    text = "columns, number and first rows of a data set"
    showing = actions.add_parser("show", help=text, description=text)
    showing.add_argument("path", help="file, folder or Hub name")
    showing.add_argument("--name", default="", help="configuration of a folder or a Hub name")
    showing.add_argument("--split", default="train", help="split of a folder or a Hub name (train)")
    showing.add_argument("-n", type=int, default=2, help="rows shown (2)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "fetch":
        _fetch(arguments)
    else:
        _show(arguments)
    return 0


def _fetch(arguments: argparse.Namespace) -> None:
    try:
        options = fetch(arguments.name, KNOWN[arguments.name], arguments.to, copy=arguments.copy)
    except OSError as error:
        if error.filename is None:
            raise
        where = f"--to: {str(error.filename)!r}"
        raise InvalidRequest(f"{where} cannot be written ({error.strerror}); give another directory") from None
    for path in options.values():
        print(f"{path:32} {sum(1 for _ in read(Source(path=path)))} rows")
    written = ", ".join(f"{option} = {json.dumps(path)}" for option, path in options.items())
    print(f'\n[[environments]]\nname = "{arguments.name}"\noptions = {{ {written} }}')


def _show(arguments: argparse.Namespace) -> None:
    source = Source(path=arguments.path, name=arguments.name, split=arguments.split)
    rows = [row for _, row in read(source)]
    if not rows:
        raise InvalidRequest(f"path: {arguments.path!r} has no rows")
    print(f"{len(rows)} rows")
    for column in dict.fromkeys(column for row in rows for column in row):
        values = [row[column] for row in rows if row.get(column) not in (None, "")]
        kinds = ", ".join(sorted({_kind(value) for value in values})) or "empty"
        empty = f", empty in {len(rows) - len(values)}" if len(values) < len(rows) else ""
        print(f"  {printable(column):20} {kinds}{empty}")
    for row in islice(rows, arguments.n):
        text = json.dumps(row, ensure_ascii=False, default=repr)
        print(printable(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."))


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
