"""``rlserve status``: how a run stands and who is alive, asked of its hub."""

import argparse
import asyncio
import time

from rlserve.actors.hub.client import HubClient
from rlserve.cli.hub_address import hub_address
from rlserve.errors import NotReady
from rlserve.observability.printable import printable
from rlserve.records import RunState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="directory of the run, e.g. runs/quickstart")
    parser.add_argument("--hub", help="address of the hub, when the run is not on this machine")


def run(arguments: argparse.Namespace) -> int:
    asyncio.run(_show(hub_address(arguments.hub, arguments.run)))
    return 0


async def _run_state(client: HubClient) -> RunState | None:
    try:
        return await client.get_run_state()
    except NotReady:
        return None


def _print_state(state: RunState) -> None:
    message = printable(state.message)
    print(f"run {printable(state.run_id)}: {state.phase}, step {state.step} of {state.total_steps}. {message}")
    for name, value in sorted(state.metrics.items()):
        print(f"  {printable(name):40} {value:.4g}")
    print(printable("groups: " + ", ".join(f"{name} {count}" for name, count in sorted(state.groups.items()))))


async def _show(address: str) -> None:
    client = HubClient(address)
    try:
        state = await _run_state(client)
        actors = await client.list_actors()
        environments = await client.list_environments()
    finally:
        await client.close()
    if state is None:
        print("no learner has reported yet")
    else:
        _print_state(state)
    for spec in environments:
        print(printable(f"  environment {spec.name} {spec.version} at {spec.address}, weight {spec.weight:g}"))
    now = time.time()
    for actor in sorted(actors, key=lambda a: a.actor_id):
        seen = now - actor.last_seen_unix_seconds
        status = ", ".join(f"{k} {v}" for k, v in sorted(actor.status.items()))
        place = f"{actor.actor_id:16} {actor.address:22} pid {actor.pid:<8}"
        print(printable(f"  {place} seen {seen:4.1f} s ago  {status}"))
