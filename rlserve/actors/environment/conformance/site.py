"""The environment under test: a server at an address, its spec, and a pool that runs its verifier."""

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
from rlserve.actors.verifier.pool import VerifierPool
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.verifier import VerifierConfig
from rlserve.errors import InvalidRequest
from rlserve.records import EnvironmentSpec, Verdict
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class Skip(Exception):
    """The check does not apply; the text is the reason."""


Verify = Callable[[str, str, bytes], Awaitable[Verdict]]
"""(verifier, completion, payload) -> verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One environment to check."""

    spec: EnvironmentSpec
    client: EnvironmentClient
    verify: Verify | None
    """None if its verifier is not installed here."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    restart: Callable[[], Awaitable[EnvironmentClient]] | None = None
    """Starts another server of the same environment; None for a remote one."""
    demonstrate: Callable[[str, int, int], tuple[str, str]] | None = None
    """(split, index, seed) -> prompt and right completion, if the plug-in has demonstrations."""


@asynccontextmanager
async def plugin_site(config: EnvironmentConfig, verifier_options: Mapping[str, Any]) -> AsyncIterator[Site]:
    """An installed plug-in, served for the duration of the block. Raises the errors of ``load_environments``."""
    async with AsyncExitStack() as stack:
        environments = load_environments([config])
        spec = describe(environments[config.name], config)

        async def serve() -> EnvironmentClient:
            # New instances: a restart must find nothing that the first ones keep in memory.
            fresh = load_environments([config])
            service = EnvironmentService(fresh, {config.name: spec})
            add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
            server = await stack.enter_async_context(serving(add, service_names=[SERVICE_NAME]))
            return await stack.enter_async_context(EnvironmentClient(server.address))

        verify, reward_range = await _local_verifier(stack, spec.verifier, verifier_options)
        demonstrate = getattr(environments[config.name], "demonstration", None)
        yield Site(
            spec=spec,
            client=await serve(),
            verify=verify,
            reward_range=reward_range,
            restart=serve,
            demonstrate=demonstrate,
        )


@asynccontextmanager
async def remote_site(
    address: str, name: str, verifier_options: Mapping[str, Any], registered: EnvironmentSpec | None = None
) -> AsyncIterator[Site]:
    """A server in any language. ``registered`` is its spec at the hub, if known.

    Raises InvalidRequest if the server does not offer ``name``, and the client's errors.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(EnvironmentClient(address))
        offered = {spec.name: spec for spec in await client.describe()}
        if name not in offered:
            raise InvalidRequest(
                f"name: {name!r} is not offered at {address} (offered: {', '.join(offered) or 'none'})"
            )
        spec = registered or offered[name]
        verify, reward_range = await _local_verifier(stack, spec.verifier, verifier_options)
        yield Site(spec=spec, client=client, verify=verify, reward_range=reward_range)


async def _local_verifier(
    stack: AsyncExitStack, verifier: str, options: Mapping[str, Any]
) -> tuple[Verify | None, tuple[float, float]]:
    """A pool that runs the verifier, if it is installed here."""
    if not plugins.is_known(plugins.VERIFIER_GROUP, verifier):
        return None, (0.0, 1.0)
    # Two workers, so that two verdicts on one answer may come from two processes.
    pool = await stack.enter_async_context(VerifierPool({verifier: options}, VerifierConfig(workers=2, spares=0)))

    async def verify(name: str, completion: str, payload: bytes) -> Verdict:
        return await pool.verify(name, completion, payload)

    return verify, pool.specs[verifier].reward_range


async def verify_all(site: Site, completions: Sequence[str], payload: bytes) -> list[Verdict]:
    """Verdicts of several completions of one task. Call it only if the site has a verifier."""
    assert site.verify is not None
    return list(await asyncio.gather(*(site.verify(site.spec.verifier, text, payload) for text in completions)))
