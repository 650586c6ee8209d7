"""Environment servers in this process, a hub that knows them, and a pool that finds them."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.pool import EndpointPool
from rlserve.actors.environment.service import SERVICE_NAME, EnvironmentService
from rlserve.actors.hub.main import hub_server
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.plugins import Environment
from rlserve.records import Actor, ActorKind
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.v1 import environment_service_pb2_grpc as pb_grpc


class EpisodeSite:
    """A hub, its client and the pool of a worker."""

    def __init__(self, hub: HubClient, pool: EndpointPool) -> None:
        self.hub = hub
        self.pool = pool

    @asynccontextmanager
    async def server(
        self, actor_id: str, environment: Environment, limits: EpisodesConfig | None = None
    ) -> AsyncIterator[EnvironmentService]:
        """A registered server of one environment; at the end of the block its streams are cut."""
        service = EnvironmentService({environment.name: environment}, {}, limits)
        add = functools.partial(pb_grpc.add_EnvironmentServiceServicer_to_server, service)
        options = ServerOptions(stop_grace_seconds=0.0)
        async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
            actor = Actor(
                actor_id=actor_id,
                kind=ActorKind.ENVIRONMENT,
                address=server.address,
                incarnation=actor_id,
                serves=(environment.name,),
            )
            async with self.hub.registered(actor):
                yield service


@asynccontextmanager
async def episode_site() -> AsyncIterator[EpisodeSite]:
    async with (
        hub_server("127.0.0.1:0", 2.0) as server,
        HubClient(server.address) as client,
        EndpointPool(client, ActorKind.ENVIRONMENT) as pool,
    ):
        yield EpisodeSite(client, pool)
