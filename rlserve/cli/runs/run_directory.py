"""Checks a run directory given on the command line."""

from pathlib import Path

from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest


def run_directory(given: Path) -> RunPaths:
    """The paths of the run in ``given``. Raises InvalidRequest if it is not a run directory."""
    paths = RunPaths(given)
    if not given.is_dir():
        raise InvalidRequest(f"run: there is no directory {str(given)!r}; give that of a run, e.g. runs/quickstart")
    if not (paths.config.exists() or paths.events.exists() or paths.metrics.exists()):
        raise InvalidRequest(
            f"run: {str(given)!r} is not a run (it has neither {paths.config.name} nor {paths.events.name}); "
            "give the directory of one, e.g. runs/quickstart"
        )
    return paths
