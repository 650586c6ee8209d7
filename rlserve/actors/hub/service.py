"""HubService: translates messages and calls the registry."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio

from rlserve.actors.hub.environment_registry import EnvironmentRegistry
from rlserve.actors.hub.memory import HubMemory
from rlserve.actors.hub.paging import page
from rlserve.actors.hub.registry import Registry
from rlserve.actors.hub.watchers import Watchers
from rlserve.errors import NotReady, RlserveError
from rlserve.records import ActorEvent, Change, RunState
from rlserve.rpc import codec
from rlserve.rpc.codec.check import text
from rlserve.v1 import hub_service_pb2 as pb
from rlserve.v1 import hub_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["HubService"].full_name


class HubService(pb_grpc.HubServiceServicer):
    """gRPC servicer of one registry."""

    def __init__(self, registry: Registry, memory: HubMemory | None = None) -> None:
        """``memory`` is what a later hub of the run continues with; None: it begins with nothing."""
        self._memory = memory
        self._saving = asyncio.Lock()  # the later state is written last
        self._registry = registry
        self._environments = EnvironmentRegistry(registry)
        self._watchers = Watchers(registry)
        self._state: RunState | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add this servicer to a server."""
        pb_grpc.add_HubServiceServicer_to_server(self, server)

    async def restore(self) -> None:
        """Continue with what an earlier hub kept."""
        if self._memory is not None:
            self._state = await self._memory.load(self._environments)

    def refresh(self) -> None:
        """Remove the environments of dead servers."""
        self._environments.remove_expired()

    def close(self) -> None:
        """End the watchers' streams, which would otherwise delay the server's stop."""
        self._watchers.close()

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        actor = codec.actor_from_proto(request.actor, "actor")
        registration_id = self._registry.register(actor)
        return pb.RegisterResponse(lease_id=registration_id, lease_seconds=self._registry.heartbeat_timeout_seconds)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        registration_id = text(request.lease_id, "", "lease_id")
        # First: it raises UnknownName for a registration that is over, and nothing is restored.
        self._registry.renew(registration_id, codec.status_from_proto(request.status))
        self._environments.restore(registration_id)
        return pb.HeartbeatResponse(lease_seconds=self._registry.heartbeat_timeout_seconds)

    async def Deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:
        self._registry.deregister(text(request.lease_id, "", "lease_id"))
        return pb.DeregisterResponse()

    async def ListActors(self, request: pb.ListActorsRequest, context: Context) -> pb.ListActorsResponse:
        actors = self._registry.actors(codec.kind_filter_from_proto(request.kind))
        found, following = page({actor.actor_id: codec.actor_to_proto(actor) for actor in actors}, request.after)
        return pb.ListActorsResponse(actors=found, next=following)

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        kind = codec.kind_filter_from_proto(request.kind)
        # Before the list is read: a change during its delivery waits in the queue and follows.
        with self._watchers.subscribe(kind) as watch:
            for actor in self._registry.actors(kind):
                yield codec.event_to_proto(ActorEvent(Change.JOINED, actor))
            # From here on a client may count known actors that were not listed as missing.
            yield pb.WatchResponse(change=pb.WatchResponse.CHANGE_SYNCED)
            async for event in watch.events():
                yield codec.event_to_proto(event)

    async def GetRunState(self, request: pb.GetRunStateRequest, context: Context) -> pb.GetRunStateResponse:
        if self._state is None:
            raise NotReady("state: no learner has reported yet; ask again in a moment")
        return pb.GetRunStateResponse(state=codec.run_state_to_proto(self._state))

    async def ReportRunState(self, request: pb.ReportRunStateRequest, context: Context) -> pb.ReportRunStateResponse:
        state = codec.run_state_from_proto(request.state, "state")
        self._state = replace(state, updated_unix_seconds=time.time())
        try:
            await self._save()
        except RlserveError as error:  # the next report replaces it
            logger.warning("the state of the run is not kept: %s", error)
        return pb.ReportRunStateResponse()

    async def RegisterEnvironment(
        self, request: pb.RegisterEnvironmentRequest, context: Context
    ) -> pb.RegisterEnvironmentResponse:
        spec = codec.environment_from_proto(request.spec, "spec")
        self._environments.register(spec, request.lease_id, host=host_of_peer(context.peer()), again=request.again)
        # A server that stays registers again by itself.
        if request.again or not request.lease_id:
            await self._save()
        return pb.RegisterEnvironmentResponse()

    async def UnregisterEnvironment(
        self, request: pb.UnregisterEnvironmentRequest, context: Context
    ) -> pb.UnregisterEnvironmentResponse:
        self._environments.unregister(text(request.name, "", "name"), keep_out=request.keep_out)
        await self._save()
        return pb.UnregisterEnvironmentResponse()

    async def _save(self) -> None:
        if self._memory is not None:
            async with self._saving:
                await self._memory.save(self._environments, self._state)

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        specs = {spec.name: codec.environment_to_proto(spec) for spec in self._environments.all()}
        found, following = page(specs, request.after)
        return pb.ListEnvironmentsResponse(environments=found, next=following)


def host_of_peer(peer: str) -> str:
    """The host in gRPC's peer string, such as ``ipv4:10.0.0.1:4711``; all unix sockets count as one host."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else kind
