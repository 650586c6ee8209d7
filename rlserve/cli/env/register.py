"""``rlserve env register``: registers a server's environments at the hub of a run."""

import argparse
import asyncio
import contextlib
import sys
import time
import tomllib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.stop import stop_signals
from rlserve.cli.runs import hub_address
from rlserve.config.tables.environment import TaskSamplingConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.observability.printable import printable
from rlserve.records import Actor, ActorKind, EnvironmentSpec, Sampling
from rlserve.text_files import read_text

WATCH_SECONDS = 2.0
"""Between two looks whether the server still answers."""
MAX_MISSES = 3
"""Missed answers in a row before the environment is unregistered: one may be a pause of a busy server."""
START_SECONDS = 60.0
"""For the spec's command to answer; it may load a data set first."""
STOP_SECONDS = 10.0
"""For the spec's command to end after SIGTERM."""
FIELDS = (
    "name", "version", "address", "splits", "verifier", "weight", "multi_turn", "description", "held_out", "sampling",
    "command", "payload_schema_json",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="HOST:PORT of a server, to register all it offers; or a TOML file with a spec")
    hub_address.add_arguments(parser)
    parser.add_argument("--name", help="only this one of the server's environments")
    parser.add_argument("--weight", type=float, help="share in the mixture, relative to the others")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="stay, watch the server, and unregister it when it dies or on Ctrl-C; without --keep the environment "
        "stays registered until `rlserve env unregister`",
    )
    parser.add_argument(
        "--start",
        action="store_true",
        help="start the server by the spec's `command`, stop it at the end; keeps",
    )


def run(arguments: argparse.Namespace) -> int:
    hub = hub_address.hub_address(arguments.hub, arguments.run_directory)
    return asyncio.run(_register(arguments, hub))


def read_spec(path: Path) -> EnvironmentSpec:
    """A spec from TOML. Raises InvalidRequest, which names the field."""
    try:
        content = tomllib.loads(read_text(path))
    except ValueError as error:
        raise InvalidRequest(f"source: {str(path)!r} is not a TOML file ({error})") from error
    # A misspelt key would otherwise leave its default, such as a held-out split that is trained on.
    unknown = sorted(set(content) - set(FIELDS))
    if unknown:
        raise InvalidRequest(f"{path.name}: {unknown[0]}: is unknown (known: {', '.join(FIELDS)})")
    missing = [field for field in ("name", "address", "splits") if not content.get(field)]
    if missing:
        raise InvalidRequest(f"{path.name}: {missing[0]}: is missing; give name, address and splits (size, 0: endless)")
    fields: dict[str, Any] = {name: tuple(content[name]) for name in ("held_out", "command") if name in content}
    try:
        usual = TaskSamplingConfig.model_validate(content.get("sampling", {}))
    except ValidationError as error:
        [first, *_] = error.errors()
        where = ".".join(map(str, ("sampling", *first["loc"])))
        known = ", ".join(TaskSamplingConfig.model_fields)
        raise InvalidRequest(f"{path.name}: {where}: {first['msg']} (known: {known})") from error
    return EnvironmentSpec(**{**content, **fields, "sampling": Sampling(**usual.model_dump())})


async def _register(arguments: argparse.Namespace, hub: str) -> int:
    specs = await _specs(arguments)
    async with HubClient(hub) as client:
        if arguments.start:
            async with _started(specs[0]):
                return await _keep(client, specs)
        if arguments.keep:
            return await _keep(client, specs)
        for spec in specs:
            # again: an operator's registration ends an earlier `unregister`, which keeps the name out until then.
            await client.register_environment(spec, again=True)
            print(printable(f"{spec.name} {spec.version} at {spec.address} is registered until it is unregistered"))
    return 0


async def _specs(arguments: argparse.Namespace) -> list[EnvironmentSpec]:
    """The specs to register, each of a server that answers."""
    if arguments.source.endswith(".toml"):
        specs = [read_spec(Path(arguments.source))]
    else:
        async with EnvironmentClient(arguments.source) as server:
            specs = [replace(spec, address=arguments.source) for spec in await server.describe()]
    if arguments.name:
        offered = ", ".join(spec.name for spec in specs) or "none"
        specs = [spec for spec in specs if spec.name == arguments.name]
        if not specs:
            raise InvalidRequest(f"name: {arguments.name!r} is not offered there (offered: {offered})")
    if arguments.weight is not None:
        specs = [replace(spec, weight=arguments.weight) for spec in specs]
    return specs


async def _keep(client: HubClient, specs: Sequence[EnvironmentSpec]) -> int:
    """Stay registered while the server answers. Exit code 0 on Ctrl-C, 1 if the server is gone."""
    actor = Actor(
        # The suffix lets two terminals keep the same environment.
        actor_id=f"environment/{quote(specs[0].name, safe='')}/{uuid.uuid4().hex[:8]}",
        kind=ActorKind.ENVIRONMENT,
        address=specs[0].address,
        incarnation=uuid.uuid4().hex,
        serves=tuple(spec.name for spec in specs),
    )
    with stop_signals() as stopped:
        async with (
            # Leaving this block unregisters, on a signal as on a dead server.
            client.registered(actor, environments=specs, again=True),
            EnvironmentClient(specs[0].address) as server,
        ):
            print(
                printable(f"{', '.join(actor.serves)} at {actor.address}: registered; Ctrl-C unregisters"), flush=True
            )
            misses = 0
            while misses < MAX_MISSES:
                try:
                    await asyncio.wait_for(stopped.wait(), WATCH_SECONDS)
                    return 0
                except TimeoutError:
                    # In a row: one late answer of a busy server is no death.
                    misses = 0 if await _answers(server) else misses + 1
    print(f"{actor.address} does not answer any more: unregistered", file=sys.stderr)
    return 1


@asynccontextmanager
async def _started(spec: EnvironmentSpec) -> AsyncIterator[None]:
    """Start the server by the spec's command and wait until it answers. Raises InvalidRequest if it does not."""
    if not spec.command:
        raise InvalidRequest(f"command: the spec of {spec.name!r} has none; give one, or start the server by hand")
    try:
        # No shell: the command is a list, and its process is the server itself, which SIGTERM then reaches.
        server = await asyncio.create_subprocess_exec(*spec.command)
    except OSError as error:
        raise InvalidRequest(f"command: {spec.command[0]!r} cannot be started: {error}") from error
    try:
        deadline = time.monotonic() + START_SECONDS
        async with EnvironmentClient(spec.address) as client:
            while not await _answers(client):
                # A server that ended needs no wait of a minute.
                if server.returncode is not None or time.monotonic() > deadline:
                    how = "ended" if server.returncode is not None else f"did not answer within {START_SECONDS:g} s"
                    raise InvalidRequest(f"command: {' '.join(spec.command)!r} {how}; does it serve {spec.address}?")
                await asyncio.sleep(0.1)
        yield
    finally:
        if server.returncode is None:
            server.terminate()
            with contextlib.suppress(TimeoutError):
                # It may be in the middle of an episode, and flush its own files.
                await asyncio.wait_for(server.wait(), STOP_SECONDS)
        if server.returncode is None:
            print(f"{spec.command[0]} did not end within {STOP_SECONDS:g} s; killing it", file=sys.stderr)
            server.kill()
            await server.wait()


async def _answers(server: EnvironmentClient) -> bool:
    try:
        await server.describe(deadline_seconds=WATCH_SECONDS)
    except RlserveError:
        return False
    return True
