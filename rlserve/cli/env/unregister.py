"""``rlserve env unregister``: removes an environment from a run."""

import argparse
import asyncio

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.cli.runs import hub_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="registered name")
    hub_address.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    asyncio.run(_unregister(hub_address.hub_address(arguments.hub, arguments.run_directory), arguments.name))
    print(
        f"{arguments.name} is unregistered, and kept out until `rlserve env register`; within a second or two the run "
        "draws only from the others"
    )
    return 0


async def _unregister(hub: str, name: str) -> None:
    async with HubClient(hub) as client:
        # keep_out: the server still lives and would offer itself again with its next heartbeat.
        await client.unregister_environment(name, keep_out=True)
