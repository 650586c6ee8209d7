"""``rlserve env check``: the conformance suite, for any environment."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from rlserve import plugins
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.environment.conformance.site import Site, plugin_site, remote_site
from rlserve.actors.environment.conformance.suite import Finding, State, run_suite
from rlserve.cli.env.sample import option
from rlserve.cli.runs import hub_address
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.errors import InvalidRequest
from rlserve.observability.printable import LINES, printable
from rlserve.records import EnvironmentSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="environment: an installed plug-in, or with --address, --hub or --run a server's")
    parser.add_argument("--address", metavar="HOST:PORT", help="server to check, without a hub")
    hub_address.add_arguments(parser)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=JSON", help="option of the plug-in")
    parser.add_argument(
        "--verifier-option", action="append", default=[], metavar="KEY=JSON", help="option of its verifier"
    )
    parser.add_argument("--json", action="store_true", help="print only the findings, as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 if no check failed."""
    findings = asyncio.run(_check(arguments))
    failed = sum(finding.state is State.FAILED for finding in findings)
    skipped = sum(finding.state is State.SKIPPED for finding in findings)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(f"{arguments.name}: {len(findings) - failed - skipped} kept, {failed} broken, {skipped} not applicable")
    return int(failed > 0)


async def _check(arguments: argparse.Namespace) -> list[Finding]:
    async with _site(arguments) as site:
        return await run_suite(site, report=(lambda finding: None) if arguments.json else _show)


@asynccontextmanager
async def _site(arguments: argparse.Namespace) -> AsyncIterator[Site]:
    verifier_options = dict(map(option, arguments.verifier_option))
    if arguments.address or arguments.hub or arguments.run_directory:
        registered = None if arguments.address else await _registered(arguments)
        address = arguments.address or (registered.address if registered else "")
        async with remote_site(address, arguments.name, verifier_options, registered) as site:
            yield site
        return
    config = EnvironmentConfig(name=arguments.name, options=dict(map(option, arguments.option)))
    # The site constructs it again; this first time reports a faulty option in terms of this command line.
    plugins.make(plugins.ENVIRONMENT_GROUP, config.name, config.options, where="--option")
    async with plugin_site(config, verifier_options) as site:
        yield site


async def _registered(arguments: argparse.Namespace) -> EnvironmentSpec:
    async with HubClient(hub_address.hub_address(arguments.hub, arguments.run_directory)) as client:
        specs = {spec.name: spec for spec in await client.list_environments()}
    if arguments.name not in specs:
        raise InvalidRequest(
            f"name: {arguments.name!r} is not registered (known: {', '.join(sorted(specs)) or 'none'})"
        )
    return specs[arguments.name]


def _show(finding: Finding) -> None:
    print(f"{finding.state.value:8} {finding.promise}", flush=True)
    if finding.detail:
        print(f"{'':8}   {printable(finding.detail, keep=LINES)}")
