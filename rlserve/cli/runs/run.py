"""``rlserve run CONFIG``: a whole run, from the start checkpoint to the report."""

import argparse
import json
import sys
from pathlib import Path

from rlserve.config.load import load_run, to_toml
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.console.follow import print_warning
from rlserve.errors import InvalidRequest
from rlserve.launch.gpus import gpus_to_plan
from rlserve.launch.memory.check import table
from rlserve.launch.plan import HUB, plan_hub, plan_processes
from rlserve.launch.ray.needs import resources_of
from rlserve.launch.run import look_for_faults
from rlserve.library.start import paths_of, resume, resumed, start

SET_HELP = "override one key, e.g. --set learner.lr=1e-5 --set environments.0.weight=2"
UNSET_HELP = "remove a key or a table from the files, e.g. --unset pretrain --unset stop_reward"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="+",
        help="TOML files, later ones over earlier ones, or shipped ones by name (quickstart); with --resume the "
        "directory of the run, or its URL (checkpoint.mirror/NAME)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=SET_HELP)
    parser.add_argument("--unset", action="append", default=[], metavar="KEY", help=UNSET_HELP)
    parser.add_argument("--on", choices=("local", "ray"), help="where: this machine, or a Ray cluster (launch.type)")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="head of the Ray cluster (launch.ray.address)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved configuration and the processes, check them; start nothing",
    )
    parser.add_argument(
        "--no-preflight",
        action="store_true",
        help="do not check models, plug-ins and ports, e.g. when they exist only on the machine that will run it",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint and the stored queue")
    parser.add_argument(
        "--restore-store",
        action="store_true",
        help="with --resume: use the copy of the store in the newest complete checkpoint",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier run of the same name first")


def run(arguments: argparse.Namespace) -> int:
    if arguments.resume and "://" in arguments.config[0]:
        _fetch(arguments)
    config, paths = _resolve(arguments)
    if arguments.dry_run:
        # Before the checks: the plan also helps to understand their findings.
        _print_plan(config, paths)
        if not arguments.no_preflight:
            sys.stdout.flush()  # the plan comes before the warnings, which go to standard error
            look_for_faults(config, paths, print_warning)
        return 0
    if arguments.restore_store and not arguments.resume:
        raise InvalidRequest("--restore-store: needs --resume; add it")
    preflight = not arguments.no_preflight
    if not arguments.resume:
        return start(config, overwrite=arguments.overwrite, preflight=preflight)
    return resume(
        paths.root, lambda: _resolve(arguments)[0], restore_store=arguments.restore_store, preflight=preflight
    )


def _fetch(arguments: argparse.Namespace) -> None:
    """Bring a run here from its mirror; what follows resumes it, as if it had been here."""
    if arguments.dry_run or len(arguments.config) != 1:
        raise InvalidRequest("--resume: give one URL of a run, without --dry-run, which would fetch it")
    from rlserve.actors.mirror.fetch import fetch_run

    given = [text.partition("=")[2] for text in arguments.overrides if text.startswith("directory=")]
    root = fetch_run(
        arguments.config[0].rstrip("/"), Path(given[-1] if given else RunConfig.model_fields["directory"].default)
    ).root
    print(f"fetched {root}")
    arguments.config = [str(root)]
    # The store of the checkpoint: that of the other machine is not here.
    arguments.restore_store = any((root / "checkpoints").glob("step-*"))


def _overrides(arguments: argparse.Namespace) -> list[str]:
    kind = arguments.on or ("ray" if arguments.ray_address else None)
    options = (("launch.type", kind), ("launch.ray.address", arguments.ray_address))
    return [*arguments.overrides, *(f"{key}={json.dumps(value)}" for key, value in options if value)]


def _resolve(arguments: argparse.Namespace) -> tuple[RunConfig, RunPaths]:
    if not arguments.resume:
        config = load_run(arguments.config, _overrides(arguments), arguments.unset)
        return config, paths_of(config)
    if len(arguments.config) != 1:
        raise InvalidRequest("--resume: give one run directory, e.g. rlserve run --resume runs/quickstart")
    given = Path(arguments.config[0])
    paths = RunPaths(given if given.is_dir() else _directory_of(given))
    return resumed(paths, _overrides(arguments), arguments.unset), paths


def _directory_of(given: Path) -> Path:
    if given.suffix != ".toml":
        raise InvalidRequest(f"--resume: there is no directory {str(given)!r}; give that of a run")
    config = load_run([given])
    return paths_of(config).root


def _print_plan(config: RunConfig, paths: RunPaths) -> None:
    print(to_toml(config))
    print("# processes")
    address = "HUB_ADDRESS"
    planned = plan_processes(config, paths.root, hub_address=address, gpus=gpus_to_plan(config))
    for spec in (plan_hub(paths.root, address), *planned):
        on = spec.environment.get("CUDA_VISIBLE_DEVICES")
        on = f"GPU {on}" if on else ""
        if config.launch.type == "ray" and spec.name != HUB:
            on = str(resources_of(spec, config))
        print(f"# {spec.name}{f' ({on})' if on else ''}: {' '.join(spec.command[1:])}")
    for line in table(config):
        print(f"#   {line}")
