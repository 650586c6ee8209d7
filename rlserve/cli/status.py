"""``rlserve status``: how a run stands and who is alive, asked of its hub."""

import argparse
import asyncio
import time
from pathlib import Path

from rlserve.actors.hub.client import HubClient
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, NotReady
from rlserve.records import RunState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="directory of the run, e.g. runs/quickstart")
    parser.add_argument("--hub", help="address of the hub, when the run is not on this machine")


def run(arguments: argparse.Namespace) -> int:
    asyncio.run(_show(_hub_address(arguments)))
    return 0


def _hub_address(arguments: argparse.Namespace) -> str:
    if arguments.hub:
        return str(arguments.hub)
    if not arguments.run:
        raise InvalidRequest("run: give the run's directory, or --hub HOST:PORT")
    path = RunPaths(Path(arguments.run)).hub_address
    if not path.exists():
        raise InvalidRequest(f"run: {arguments.run!r} has no running hub (no {path.name}); is it finished?")
    return path.read_text(encoding="utf-8").strip()


async def _run_state(client: HubClient) -> RunState | None:
    try:
        return await client.get_run_state()
    except NotReady:
        return None


def _print_state(state: RunState) -> None:
    print(f"run {state.run_id}: {state.phase}, step {state.step} of {state.total_steps}. {state.message}")
    for name, value in sorted(state.metrics.items()):
        print(f"  {name:40} {value:.4g}")
    print("groups: " + ", ".join(f"{name} {count}" for name, count in sorted(state.groups.items())))


async def _show(address: str) -> None:
    client = HubClient(address)
    try:
        state = await _run_state(client)
        actors = await client.list_actors()
    finally:
        await client.close()
    if state is None:
        print("no learner has reported yet")
    else:
        _print_state(state)
    now = time.time()
    for actor in sorted(actors, key=lambda a: a.actor_id):
        seen = now - actor.last_seen_unix_seconds
        status = ", ".join(f"{k} {v}" for k, v in sorted(actor.status.items()))
        print(f"  {actor.actor_id:16} {actor.address:22} pid {actor.pid:<8} seen {seen:4.1f} s ago  {status}")
