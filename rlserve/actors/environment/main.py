"""An environment server process: loads plug-ins by name, serves them, registers them with the hub."""

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from rlserve import plugins
from rlserve.actors.environment.rewarded import options_of, rewarded
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.actors.process import run_actor
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.errors import PluginFailed
from rlserve.plugins import Environment
from rlserve.records import ActorKind, EnvironmentSpec, Sampling
from rlserve.rpc import codec
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


async def run_environment(
    environments: Sequence[EnvironmentConfig],
    *,
    actor_id: str,
    hub_address: str,
    address: str,
    run_id: str = "",
    episodes: EpisodesConfig | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigError, UnknownName or PluginFailed for an environment that cannot be made.
    """
    loaded = load_environments(environments)
    specs = {e.name: describe(loaded[e.name], e) for e in environments}

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        service = EnvironmentService(loaded, specs, episodes)
        add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
        async with serving(add, address=address, service_names=[SERVICE_NAME]) as server:
            yield server.address

    return await run_actor(
        kind=ActorKind.ENVIRONMENT,
        actor_id=actor_id,
        hub_address=hub_address,
        serve=serve(),
        serves=list(loaded),
        environments=list(specs.values()),
        run_id=run_id,
    )


def load_environments(environments: Sequence[EnvironmentConfig]) -> Mapping[str, Environment]:
    """Instances by name, constructed with their options. Errors name the table of the configuration."""
    return {e.name: _load(index, e) for index, e in enumerate(environments)}


def describe(environment: Environment, config: EnvironmentConfig) -> EnvironmentSpec:
    """The spec to register at the hub; the actor fills in the address.

    Raises PluginFailed if the plug-in's attributes do not make a valid spec.
    """
    spec = EnvironmentSpec(
        name=config.name,
        version=environment.version,
        address="",
        splits=dict(environment.splits),
        verifier=environment.verifier,
        weight=config.weight,
        multi_turn=bool(getattr(environment, "multi_turn", False)),
        description=(type(environment).__doc__ or "").strip().partition("\n")[0],
        sampling=Sampling(**config.sampling.model_dump()),
    )
    try:
        # A round trip, with a stand-in for the address: the hub would refuse the spec only once the server is up.
        codec.environment_from_proto(codec.environment_to_proto(replace(spec, address="host:1")))
    except (TypeError, ValueError) as error:
        raise PluginFailed(f"environment {config.name!r}: its attributes make no valid spec: {error}") from error
    return spec


def _load(index: int, config: EnvironmentConfig) -> Environment:
    plugin = config.plugin or config.name
    environment = plugins.make(
        plugins.ENVIRONMENT_GROUP, plugin, options_of(config), where=f"environments.{index}.options"
    )
    try:
        whole = isinstance(environment, Environment)  # reads its properties, which may raise
    except Exception as error:
        raise PluginFailed(f"environments.{index}: {config.name!r}: {plugins.describe_exception(error)}") from error
    if not whole:
        raise PluginFailed(f"environments.{index}: {config.name!r} lacks name, version, verifier, splits or task()")
    loaded: Environment = environment
    loaded.name = config.name  # tasks carry the name that the mixture gives their environment
    return rewarded(loaded, config.verifier) if config.verifier else loaded
