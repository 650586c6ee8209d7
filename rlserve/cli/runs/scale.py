"""``rlserve scale RUN POOL=COUNT``: more or fewer processes of a run that goes on."""

import argparse
import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.cli.runs.hub_address import hub_address
from rlserve.cli.runs.run_directory import run_directory
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, Unavailable
from rlserve.launch.scaling.requests import ask
from rlserve.launch.scaling.scaler import EVENT
from rlserve.observability.events import read_json_lines

POLL_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Pools: rollout, verifier, environment, teacher-NAME. It holds until the run ends."
    parser.add_argument("run", help="directory of the run, e.g. runs/quickstart")
    parser.add_argument("counts", nargs="+", metavar="POOL=COUNT", help="e.g. rollout=4")
    parser.add_argument("--wait", type=float, default=300.0, help="seconds to wait for the launcher (default 300)")


def run(arguments: argparse.Namespace) -> int:
    paths = run_directory(Path(arguments.run))
    counts = dict(map(_count, arguments.counts))
    asyncio.run(_refuse_unless_running(arguments.run))
    before = len(_results(paths))
    ask(paths.scale, counts)
    return _wait(paths, before, set(counts), arguments.wait)


def _count(text: str) -> tuple[str, int]:
    pool, _, count = text.partition("=")
    if not pool or not count.isdigit() or not 1 <= int(count) <= 1024:
        raise InvalidRequest(f"{text}: give POOL=COUNT with a count from 1 to 1024, e.g. rollout=4")
    return pool, int(count)


async def _refuse_unless_running(run: str) -> None:
    try:
        async with HubClient(hub_address(None, run)) as hub:
            await hub.list_actors()
    except Unavailable:
        raise InvalidRequest(f"run: {run!r} is not running; continue it with rlserve run --resume {run}") from None


def _wait(paths: RunPaths, before: int, pools: set[str], seconds: float) -> int:
    deadline = time.monotonic() + seconds
    failed = False
    while pools and time.monotonic() < deadline:
        for event in _results(paths)[before:]:
            before += 1
            if event["pool"] not in pools or event["why"] != "asked":
                continue
            pools.discard(event["pool"])
            failed = failed or bool(event["problem"])
            print(
                f"{event['pool']}: {event['before']} -> {event['now']}"
                + (f"; {event['problem']}" * bool(event["problem"]))
            )
        time.sleep(POLL_SECONDS)
    if pools:
        print(f"written to {paths.scale}; the launcher did not finish with {', '.join(sorted(pools))} in {seconds:g} s")
    return int(failed)


def _results(paths: RunPaths) -> list[Mapping[str, Any]]:
    return [event for event in read_json_lines(paths.events) if event.get("event") == EVENT]
