"""``rlserve verifier``: lists installed verifiers, writes a new one to start from."""

import argparse
from pathlib import Path
from types import ModuleType

from rlserve import plugins
from rlserve.cli.env.scaffold import write_files, write_package
from rlserve.cli.templates import judge, reward_function, verifier
from rlserve.errors import PluginFailed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="list the installed verifiers")
    new = actions.add_parser("new", help="write a package with a working verifier and its test")
    new.add_argument("name", help="registered name, e.g. politeness")
    new.add_argument("--directory", type=Path, help="where to write it (rlserve-NAME)")
    form = new.add_mutually_exclusive_group()
    form.add_argument("--function", action="store_true", help="a function in a file, for `reward = ...`; no package")
    form.add_argument("--judge", action="store_true", help="one that asks a model behind a server, many at once")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return list_verifiers()
    if arguments.function:
        return new_function(arguments.name, arguments.directory)
    return new_verifier(arguments.name, arguments.directory, judge if arguments.judge else verifier)


def list_verifiers() -> int:
    """One line per verifier with its range of rewards; for a broken one, its error."""
    for name in plugins.names(plugins.VERIFIER_GROUP):
        try:
            kind = plugins.load(plugins.VERIFIER_GROUP, name)
        # One broken plug-in must not hide the others.
        except PluginFailed as error:
            print(f"{name:16} BROKEN: {str(error).removeprefix(f'{plugins.VERIFIER_GROUP}: ')}")
            continue
        # Asked of the class: making a verifier may need options. A rubric's range is a property there, and follows its
        # parts.
        ends = getattr(kind, "reward_range", (0.0, 1.0))
        span = f"{ends[0]:g} to {ends[1]:g}" if isinstance(ends, tuple) else "as its parts"
        summary = getattr(kind, "description", "") or (kind.__doc__ or "").strip().partition("\n")[0]
        print(f"{name:16} {getattr(kind, 'version', '')!s:6} {span:12} {summary}")
    return 0


def new_verifier(name: str, directory: Path | None, form: ModuleType) -> int:
    """Write the package and print the next steps."""
    files = {"{module}.py": form.MODULE, "test_{module}.py": form.TEST, "README.md": form.README}
    made = write_package(
        name,
        directory or Path(f"rlserve-{name.replace('_', '-')}"),
        group=plugins.VERIFIER_GROUP,
        kind="Verifier",
        description="A verifier for rlserve",
        files=files,
    )
    print(f"wrote {made}: next, pip install -e {made} and python -m pytest {made}")
    return 0


def new_function(name: str, directory: Path | None) -> int:
    """Write the file and its test, and print the next steps."""
    files = {"{name}.py": reward_function.MODULE, "test_{name}.py": reward_function.TEST}
    made = write_files(name, directory or Path(name), files={**files, "README.md": reward_function.README})
    print(f"wrote {made}: next, python -m pytest {made} and rlserve run CONFIG --set reward={made}/{name}.py:{name}")
    return 0
