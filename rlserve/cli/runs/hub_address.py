"""The hub that a command talks to: a given address, or the hub of a run on this machine."""

import argparse
from pathlib import Path

from rlserve.cli.runs.run_directory import run_directory as find_run
from rlserve.errors import InvalidRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--hub`` and ``--run``."""
    parser.add_argument("--hub", metavar="HOST:PORT", help="address of the hub")
    parser.add_argument("--run", metavar="DIRECTORY", dest="run_directory", help="a run on this machine, for its hub")


def hub_address(hub: str | None, run_directory: str | None) -> str:
    """The address. Raises InvalidRequest, which names the missing argument."""
    if hub:
        return hub
    if not run_directory:
        raise InvalidRequest("hub: is not known; give a run's directory, or --hub HOST:PORT")
    path = find_run(Path(run_directory)).hub_address
    if not path.exists():
        raise InvalidRequest(
            f"run: {run_directory!r} is not running (no {path.name}); see rlserve status {run_directory}"
        )
    return path.read_text(encoding="utf-8").strip()
