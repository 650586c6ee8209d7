"""The verifier process: serve until SIGTERM or SIGINT. Importable without torch."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlserve import plugins
from rlserve.actors.process import run_actor
from rlserve.actors.verifier.pool import VerifierPool
from rlserve.actors.verifier.service import SERVICE_NAME, VerifierService
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import UnknownName
from rlserve.records import ActorKind
from rlserve.rpc.server import RunningServer, serving


@dataclass(frozen=True, slots=True)
class RunningVerifier:
    """A verifier server that answers."""

    server: RunningServer
    service: VerifierService
    pool: VerifierPool


async def run_verifier(
    config: VerifierConfig,
    *,
    names: Sequence[str] = (),
    actor_id: str = "verifier-0",
    hub_address: str = "",
    run_id: str = "",
) -> int:
    """Serve the verifiers ``names`` (empty: all registered ones) until a signal; returns the exit code.

    Without names, also the instances that have options (``"function/rows"``).
    Named verifiers are prepared at the start; without names, each is prepared when it is first used.
    Registers at the hub unless ``hub_address`` is empty.
    """
    wanted = checked_names(names) if names else [*checked_names(()), *instances(config.options)]
    running: list[RunningVerifier] = []

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with verifier_server(config, names=wanted, prepare_all=bool(names)) as verifier:
            running.append(verifier)
            yield verifier.server.address

    return await run_actor(
        kind=ActorKind.VERIFIER,
        actor_id=actor_id,
        hub_address=hub_address,
        serve=serve(),
        serves=wanted,
        status=partial(_status, running),
        run_id=run_id,
    )


@asynccontextmanager
async def verifier_server(
    config: VerifierConfig, *, names: Sequence[str], prepare_all: bool = True
) -> AsyncIterator[RunningVerifier]:
    """A verifier server that answers until the block ends."""
    verifiers = {name: config.options.get(name, {}) for name in names}
    async with VerifierPool(verifiers, config, prepare_all=prepare_all) as pool:
        service = VerifierService(
            pool,
            limit_seconds=config.limit_seconds,
            max_queue=config.max_queue,
            max_completion_bytes=config.max_completion_bytes,
        )
        async with serving(service.add_to, address=config.address, service_names=[SERVICE_NAME]) as server:
            yield RunningVerifier(server, service, pool)


def checked_names(names: Sequence[str]) -> list[str]:
    """``names``, or all registered ones; raises UnknownName for one that is not registered."""
    registered = plugins.names(plugins.VERIFIER_GROUP)
    for name in names:
        if name not in registered:
            raise UnknownName(f"verifier: {name!r} is not registered (known: {', '.join(registered) or 'none'})")
    return list(names) or registered


def instances(options: Mapping[str, Any]) -> list[str]:
    """Names of instances among those of verifiers with options, such as ``"function/rows"``."""
    return [name for name in options if plugins.INSTANCE in name]


def _status(running: Sequence[RunningVerifier]) -> Mapping[str, str]:
    """Status that the hub shows for this actor: counts since the start, and the queue."""
    if not running:
        return {}
    verifier = running[-1]
    counts = {name: str(count) for name, count in sorted(verifier.pool.counts.items())}
    return counts | {"queued": str(verifier.service.num_queued), "ready": str(verifier.pool.num_ready)}
