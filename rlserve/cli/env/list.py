"""``rlserve env list``: the environments registered with a run's hub, or installed here."""

import argparse
import asyncio
from collections.abc import Sequence

from rlserve import plugins
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.cli.runs import hub_address
from rlserve.errors import PluginFailed
from rlserve.observability.printable import printable
from rlserve.records import EnvironmentSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    hub_address.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if not (arguments.hub or arguments.run_directory):
        for name in plugins.names(plugins.ENVIRONMENT_GROUP):
            print(f"{name:20} {_summary(name)}")
        return 0
    specs = asyncio.run(_registered(hub_address.hub_address(arguments.hub, arguments.run_directory)))
    _print(specs)
    return 0


def _summary(name: str) -> str:
    """The first line of a plug-in's docstring; for a broken one its error, so that the others are still listed."""
    try:
        kind = plugins.load(plugins.ENVIRONMENT_GROUP, name)
    except PluginFailed as error:
        return f"BROKEN: {str(error).removeprefix(f'{plugins.ENVIRONMENT_GROUP}: ')}"
    return (kind.__doc__ or "").strip().partition("\n")[0]


async def _registered(hub: str) -> list[EnvironmentSpec]:
    async with HubClient(hub) as client:
        return await client.list_environments()


def _print(specs: Sequence[EnvironmentSpec]) -> None:
    print(f"{'name':20} {'version':10} {'weight':>6} {'address':22} {'verifier':14} splits")
    for spec in specs:
        splits = ", ".join(f"{name} ({size or 'endless'})" for name, size in sorted(spec.splits.items()))
        place = f"{spec.name:20} {spec.version:10} {spec.weight:6g} {spec.address:22}"
        print(printable(f"{place} {spec.verifier or '-':14} {splits}"))
