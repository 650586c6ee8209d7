"""``rlserve serve openai MODEL``: an OpenAI-compatible endpoint of a checkpoint or of a run's current policy."""

import argparse
import asyncio
import logging
import signal
import socket
from pathlib import Path

from rlserve.cli.runs.run_directory import run_directory
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.library.measure import config_of, model_of

logger = logging.getLogger(__name__)

STOPPED = 0
"""A server is stopped by a signal: that is its regular end."""
WAITING = 128  # connections that wait to be accepted, as most servers have it


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; returns the exit code."""
    if not arguments.model:
        raise InvalidRequest("serve openai: give a run directory or a checkpoint, e.g. rlserve serve openai runs/mine")
    given = Path(arguments.model)
    # The port first: a message about it need not wait for the seconds in which an engine starts.
    with _bound(arguments.host, arguments.port) as listening:
        hub_address = _hub_of(given) if arguments.live else ""
        config = load_run([config_of(given, next(iter(arguments.config), None))], arguments.overrides)
        if config.rollout.engine != "vllm":
            raise InvalidRequest(f"rollout.engine: is {config.rollout.engine!r}; the endpoint is vLLM's, set 'vllm'")
        return _serve(config, given, listening, hub_address)


def _serve(config: RunConfig, given: Path, listening: socket.socket, hub_address: str) -> int:
    from rlserve.engines.factory import engine_class
    from rlserve.importing import collector_paused

    # Before gRPC starts its threads, which a fork would not copy.
    engine_class(config.rollout.engine).prepare_process()
    with collector_paused():
        from rlserve.actors.rollout.endpoint import serve_endpoint
        from rlserve.actors.start_model import wait_for_start_model
    paths = RunPaths(given)
    # Of a live run the start model, as a worker takes it: the newest checkpoint may be deleted meanwhile.
    model = wait_for_start_model(config, paths) if hub_address else model_of(given)
    # During the start, too, a supervisor's SIGTERM ends the engine with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(serve_endpoint(config, paths, model=model, listening=listening, hub_address=hub_address))
    except KeyboardInterrupt:
        return STOPPED
    except RlserveError as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 1
    return STOPPED


def _bound(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), backlog=WAITING)
    except (OSError, OverflowError) as error:
        raise InvalidRequest(
            f"--port: {host}:{port} cannot be bound ({error}); give another, or 0 for a free one"
        ) from None
    return listening


def _hub_of(given: Path) -> str:
    paths = run_directory(given)
    if not paths.hub_address.exists():
        raise InvalidRequest(f"--live: {str(given)!r} is not running; without --live its newest checkpoint is served")
    return paths.hub_address.read_text("ascii").strip()
