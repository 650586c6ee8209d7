"""``rlserve serve KIND``: one actor, for clusters; the launcher starts its actors by it, too."""

import argparse
import asyncio
import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlserve.compile_caches import keep_compiled
from rlserve.config.digest import check_digest
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest
from rlserve.observability import logs

logger = logging.getLogger(__name__)

KINDS = ("hub", "rollout", "verifier", "environment", "teacher", "learner")
OPENAI = "openai"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "By hand on several hosts: `rlserve serve hub --config C --address HOST:PORT` on one, then the other "
        "kinds anywhere with the same --config and --hub HOST:PORT."
    )
    parser.add_argument("kind", choices=(*KINDS, OPENAI))
    parser.add_argument("model", nargs="?", default="", help="openai: a run directory or a checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="openai: where it listens (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="openai: default 8000; 0 takes a free one")
    parser.add_argument("--live", action="store_true", help="openai: the running run's current policy, step by step")
    parser.add_argument("--config", action="append", default=[], help="TOML files, later ones over earlier ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--run", type=Path, help="run directory; default: <directory>/<name> of the configuration")
    parser.add_argument("--teacher", default="", help="teacher: which of [[teachers]]; default: the first")
    parser.add_argument("--id", help="name of this actor, unique in the run; default: KIND-<host>-<pid>")
    parser.add_argument("--hub", default="", help="address of the hub, HOST:PORT")
    parser.add_argument("--address", default="", help="where this actor listens; default: as configured")
    parser.add_argument("--cores", default="", help="processor cores to run on, e.g. 0,1; default: any")
    parser.add_argument("--resume", action="store_true", help="learner: continue from the last checkpoint")


def run(arguments: argparse.Namespace) -> int:
    """The actor's exit code; 78 if the configuration cannot work, so that no launcher restarts it."""
    # Here: --help of this command should not load gRPC.
    from rlserve.actors.process import CONFIGURATION_FAULTS, EXIT_CONFIG, die_with_parent

    # First: a launcher that dies during the seconds of imports below must not leave this process behind.
    die_with_parent()
    keep_compiled(os.environ)
    actor_id = arguments.id or f"{arguments.kind}-{os.uname().nodename}-{os.getpid()}"
    logs.set_up(actor_id)
    if arguments.kind == OPENAI:
        from rlserve.cli.runs import openai_server

        return openai_server.run(arguments)
    if arguments.model:
        raise InvalidRequest(f"serve {arguments.kind}: takes no {arguments.model!r}; only openai names a model")
    try:
        # Before any import of torch: OpenMP sizes its pool of threads by the cores that it may use.
        if arguments.cores:
            _stay_on(arguments.cores)
        config, paths = _configuration(arguments)
        return _serve(arguments, config, paths, actor_id)
    except CONFIGURATION_FAULTS as error:
        logger.error("%s: %s", actor_id, error)
        return EXIT_CONFIG


def _stay_on(cores: str) -> None:
    try:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    except (ValueError, OSError) as error:
        there = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise InvalidRequest(f"--cores: is {cores!r} ({error}); this process may run on {there}") from None


def _configuration(arguments: argparse.Namespace) -> tuple[RunConfig, RunPaths]:
    files = arguments.config or [RunPaths(arguments.run or Path()).config]
    # Files given by hand are this actor's own choice: no launcher vouches for them.
    if not arguments.config:
        check_digest(Path(files[0]))
    config = load_run(files, arguments.overrides)
    return config, RunPaths(arguments.run or Path(config.directory) / config.name)


def _import_actor(kind: str, config: RunConfig) -> None:
    from rlserve.importing import collector_paused

    if kind == "rollout":
        from rlserve.engines.factory import engine_class

        # Before gRPC starts its threads, which a fork would not copy.
        engine_class(config.rollout.engine).prepare_process()
    # Imports make objects that stay: collecting meanwhile took a quarter of the time.
    with collector_paused():
        importlib.import_module(f"rlserve.actors.{kind}.main")


def _serve(arguments: argparse.Namespace, config: RunConfig, paths: RunPaths, actor_id: str) -> int:
    _import_actor(arguments.kind, config)
    match arguments.kind:
        case "hub":
            from rlserve.actors.hub.main import run_hub
            from rlserve.actors.hub.memory import HubMemory
            from rlserve.store.registry import backend_of

            address = arguments.address or config.hub.address
            memory = HubMemory(backend_of(config.store), paths)
            # `print` gives the address on standard output, for scripts that start a hub on port 0.
            return asyncio.run(run_hub(address, config.hub.heartbeat_timeout_seconds, print, memory))
        case "environment":
            from rlserve.actors.environment.main import run_environment

            return asyncio.run(
                run_environment(
                    config.rewarded_environments,
                    actor_id=actor_id,
                    hub_address=arguments.hub,
                    address=arguments.address or "127.0.0.1:0",
                    run_id=config.name,
                    episodes=config.episodes,
                )
            )
        case "verifier":
            from rlserve.actors.verifier.main import run_verifier

            change: dict[str, Any] = {"options": config.verifier_options}
            if arguments.address:
                change["address"] = arguments.address
            # model_copy, since sections are frozen.
            verifier = config.verifier.model_copy(update=change)
            return asyncio.run(run_verifier(verifier, actor_id=actor_id, hub_address=arguments.hub, run_id=config.name))
        case "teacher":
            return _serve_teacher(arguments, config, paths, actor_id)
        case "rollout":
            from rlserve.actors.rollout.main import run_rollout

            return asyncio.run(
                run_rollout(config, paths, actor_id=actor_id, hub_address=arguments.hub, address=arguments.address)
            )
        case _:
            from rlserve.actors.learner.main import run_learner
            from rlserve.launch.directory import write_config

            if arguments.config and os.environ.get("RANK", "0") == "0":
                # Without a launcher, write config.toml here: eval, report and --resume read it.
                paths.root.mkdir(parents=True, exist_ok=True)
                write_config(config, paths)
                if code := _prepared(config, paths):
                    return code
            return run_learner(
                config,
                paths,
                actor_id=actor_id,
                hub_address=arguments.hub,
                address=arguments.address,
                resume=arguments.resume,
            )


def _prepared(config: RunConfig, paths: RunPaths) -> int:
    """Make the start models, which a launcher does in a process beside; returns the exit code."""
    if config.pretrain is None and not any(teacher.is_made_here for teacher in config.teachers):
        return 0
    from rlserve.actors.process import PARENT_PID

    # A process of its own: what it imports and allocates does not stay with the learner.
    command = [sys.executable, "-m", "rlserve.launch.prepare", str(paths.root)]
    return subprocess.run(command, env={**os.environ, PARENT_PID: str(os.getpid())}, check=False).returncode


def _serve_teacher(arguments: argparse.Namespace, config: RunConfig, paths: RunPaths, actor_id: str) -> int:
    from rlserve.actors.start_model import wait_for_teacher_model
    from rlserve.actors.teacher.main import run_teacher

    known = {teacher.name: teacher for teacher in config.teachers}
    name = arguments.teacher or next(iter(known), "")
    if name not in known:
        raise InvalidRequest(f"--teacher: {name!r} is not in [[teachers]] (known: {', '.join(known) or 'none'})")
    teacher = known[name]
    if arguments.address:
        teacher = teacher.model_copy(update={"address": arguments.address})
    # After the imports above, so that preparing the model and importing the libraries overlap.
    model = wait_for_teacher_model(teacher, config, paths)
    if not model:
        raise InvalidRequest(f"teachers.model: is empty for {name!r}; name a checkpoint to serve")
    return asyncio.run(
        run_teacher(teacher, model=model, actor_id=actor_id, hub_address=arguments.hub, run_id=config.name)
    )
