"""What the checks ask: an environment server at an address, and whoever judges its answers."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rlserve import plugins
from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.environment.main import describe, load_environments
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.actors.verifier.pool import WorkerPool
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import InvalidRequest
from rlserve.records import EnvironmentSpec, Verdict
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc

Judge = Callable[[str, str, bytes], Awaitable[Verdict]]
"""(verifier, completion, payload) -> verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One environment to check."""

    spec: EnvironmentSpec
    client: EnvironmentClient
    judge: Judge | None
    """None when nobody here serves its verifier."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    restart: Callable[[], Awaitable[EnvironmentClient]] | None = None
    """Starts another server of the same environment; None for a stranger's."""
    demonstrate: Callable[[str, int, int], tuple[str, str]] | None = None
    """(split, index, seed) -> prompt and right completion, where a plug-in can."""


@asynccontextmanager
async def plugin_site(config: EnvironmentConfig, verifier_options: Mapping[str, Any]) -> AsyncIterator[Site]:
    """A plug-in that is installed here, served for the length of the block. Raises what making it raises."""
    async with AsyncExitStack() as stack:
        environments = load_environments([config])
        spec = describe(environments[config.name], config)

        async def serve() -> EnvironmentClient:
            fresh = load_environments([config])
            service = EnvironmentService(fresh, {config.name: spec})
            add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
            server = await stack.enter_async_context(serving(add, service_names=[SERVICE_NAME]))
            return await stack.enter_async_context(EnvironmentClient(server.address))

        judge, reward_range = await _judge(stack, spec.verifier, verifier_options)
        demonstrate = getattr(environments[config.name], "demonstration", None)
        yield Site(
            spec=spec,
            client=await serve(),
            judge=judge,
            reward_range=reward_range,
            restart=serve,
            demonstrate=demonstrate,
        )


@asynccontextmanager
async def remote_site(
    address: str, name: str, verifier_options: Mapping[str, Any], registered: EnvironmentSpec | None = None
) -> AsyncIterator[Site]:
    """A server in any language. ``registered`` is what the hub was told of it, if it was asked.

    Raises InvalidRequest when the server does not offer ``name``, and the client's errors.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(EnvironmentClient(address))
        offered = {spec.name: spec for spec in await client.describe()}
        if name not in offered:
            raise InvalidRequest(
                f"name: {name!r} is not offered at {address} (offered: {', '.join(offered) or 'none'})"
            )
        spec = registered or offered[name]
        judge, reward_range = await _judge(stack, spec.verifier, verifier_options)
        yield Site(spec=spec, client=client, judge=judge, reward_range=reward_range)


async def _judge(
    stack: AsyncExitStack, verifier: str, options: Mapping[str, Any]
) -> tuple[Judge | None, tuple[float, float]]:
    """A verifier pool here, if the verifier is installed here."""
    if verifier not in plugins.names(plugins.VERIFIER_GROUP):
        return None, (0.0, 1.0)
    pool = await stack.enter_async_context(WorkerPool({verifier: options}, VerifierConfig(workers=2, spares=0)))

    async def judge(name: str, completion: str, payload: bytes) -> Verdict:
        return await pool.judge(name, completion, payload)

    return judge, pool.traits[verifier].reward_range


async def judged(site: Site, completions: Sequence[str], payload: bytes) -> list[Verdict]:
    """Verdicts of several completions of one task. Call it only where the site has a judge."""
    assert site.judge is not None
    return list(await asyncio.gather(*(site.judge(site.spec.verifier, text, payload) for text in completions)))
