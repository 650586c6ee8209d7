"""``rlserve set RUN KEY=VALUE``: change a setting of a run that goes on."""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.cli.runs.run_directory import run_directory
from rlserve.config.live import LIVE, applied, parsed, read_changes
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, Unavailable
from rlserve.observability.events import read_json_lines
from rlserve.observability.summary import write_json

POLL_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Keys: {', '.join(LIVE)}. The learner takes them before its next step; a resume keeps them."
    parser.add_argument("run", help="directory of the run, e.g. runs/quickstart")
    parser.add_argument("changes", nargs="+", metavar="KEY=VALUE", help="e.g. learner.lr=1e-5")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the learner (default 60)")


def run(arguments: argparse.Namespace) -> int:
    paths = run_directory(Path(arguments.run))
    changes = parsed(arguments.changes)
    _refuse_unless_running(paths, arguments.changes)
    now = read_changes(paths.live) | changes
    applied(load_run([paths.config]), now)  # for what it raises
    before = len(_taken(paths))
    # Whole or not at all: the learner may read at any moment.
    write_json(paths.live, now)
    return _wait(paths, before, changes, arguments.wait)


def _refuse_unless_running(paths: RunPaths, changes: list[str]) -> None:
    sets = " ".join(f"--set {change}" for change in changes)
    message = f"run: {str(paths.root)!r} is not running; continue it with rlserve run --resume {paths.root} {sets}"
    if not paths.hub_address.exists():
        raise InvalidRequest(message)
    try:
        asyncio.run(_ask(paths.hub_address.read_text("ascii").strip()))
    except Unavailable:
        raise InvalidRequest(message) from None


async def _ask(address: str) -> None:
    async with HubClient(address) as hub:
        await hub.list_actors()


def _wait(paths: RunPaths, before: int, changes: Mapping[str, Any], seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in _taken(paths)[before:]:
            step = int(event["step"]) + 1
            for key, (old, new) in event["changes"].items():
                print(f"{key}: {json.dumps(old)} -> {json.dumps(new)}, from step {step} on")
            if changes.keys() <= set(event["keys"]):
                return 0
        time.sleep(POLL_SECONDS)
    print(f"written to {paths.live}; the learner takes it before its next step, which did not begin in {seconds:g} s")
    return 0


def _taken(paths: RunPaths) -> list[Mapping[str, Any]]:
    return [event for event in read_json_lines(paths.events) if event.get("event") == "set"]
