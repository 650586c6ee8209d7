"""``rlserve report``: rebuilds a run's report page from its directory, during or after the run."""

import argparse
from pathlib import Path

from rlserve.cli.runs.run_directory import run_directory
from rlserve.config.load import load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run, e.g. runs/quickstart")


def run(arguments: argparse.Namespace) -> int:
    # Here: it imports matplotlib, for which --help and a wrong argument should not wait.
    from rlserve.observability.report import write_report

    for given in arguments.runs:
        paths = run_directory(Path(given))
        # Runs by hand, or of a launcher that was killed early, may have metrics and no config.toml.
        write_report(load_run([paths.config]) if paths.config.exists() else None, paths)
        print(f"report {paths.report}")
    return 0
