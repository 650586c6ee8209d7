"""Starts a run, or an earlier one again, with the console: for the command line and the library."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType

from rlserve.config.live import read_changes
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.resume import refuse_changes
from rlserve.config.run import RunConfig
from rlserve.console.follow import Console
from rlserve.errors import InvalidRequest
from rlserve.launch.directory import Inputs
from rlserve.launch.run import Display
from rlserve.launch.run import run as launch
from rlserve.store.binding import RunFacts, changes, stored_facts
from rlserve.store.registry import backend_of


def start(
    config: RunConfig,
    *,
    overwrite: bool = False,
    preflight: bool = True,
    inputs: Inputs = MappingProxyType({}),
    display: Display | None = None,
) -> int:
    """A new run, to its end; returns the exit code: 0, or 130 after a stop. Raises what ``launch.run.run`` raises."""
    display = display or Console(config.name, sys.stdout)
    return launch(config, paths_of(config), overwrite=overwrite, preflight=preflight, inputs=inputs, display=display)


def resume(
    given: Path,
    reread: Callable[[], RunConfig],
    *,
    restore_store: bool = False,
    preflight: bool = True,
    display: Display | None = None,
) -> int:
    """The run in the directory ``given`` goes on with the configuration that ``reread`` gives; the exit code."""
    config = reread()
    display = display or Console(config.name, sys.stdout)
    return launch(
        config,
        RunPaths(given),
        resume=True,
        restore_store=restore_store,
        preflight=preflight,
        display=display,
        reread=reread,
    )


def paths_of(config: RunConfig) -> RunPaths:
    """Where a new run of ``config`` lies."""
    return RunPaths(Path(config.directory) / config.name)


def resumed(paths: RunPaths, overrides: Sequence[str] = (), unset: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run with changes that it may go on with. Raises InvalidRequest or ConfigError."""
    if not paths.config.exists():
        raise InvalidRequest(f"--resume: {str(paths.root)!r} is not a run (it has no {paths.config.name})")
    # A launcher that was killed left what was set in the run beside the configuration.
    live = [f"{key}={json.dumps(value)}" for key, value in read_changes(paths.live).items()]
    return checked_against(paths, load_run([paths.config], [*live, *overrides], unset))


def checked_against(paths: RunPaths, config: RunConfig) -> RunConfig:
    """``config``, if the run in ``paths`` may go on with it. Raises ConfigError."""
    # Here and not in the learner: a refused resume has changed nothing, not even config.toml.
    refuse_changes(load_run([paths.config]), config)
    if facts := stored_facts(backend_of(config.store), paths):
        list(changes(facts, RunFacts.of(config)))  # for the changes that it raises for; the learner warns of others
    return config
