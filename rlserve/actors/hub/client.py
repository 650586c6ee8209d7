"""How others call the hub.

``watch``      waits for: changes. A lost hub is dialled again for ever; what was known stays known meanwhile.
``wait_for``   waits for: an actor to join. unblocked by: the watch, or its deadline.
``registered`` (:mod:`rlserve.actors.hub.registration`) keeps a lease alive in the background.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import grpc.aio

from rlserve.actors.hub.mirror import RegistryMirror
from rlserve.actors.hub.registration import Registration, registered
from rlserve.errors import DeadlineExceeded, RlserveError
from rlserve.records import Actor, ActorEvent, ActorKind, EnvironmentSpec, RunState
from rlserve.rpc import codec
from rlserve.rpc.channel import call, open_channel, rpc_errors
from rlserve.rpc.codec.bounds import check_bounds
from rlserve.rpc.tls import TlsFiles
from rlserve.v1 import hub_service_pb2 as pb
from rlserve.v1 import hub_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

Response = TypeVar("Response")

REDIAL_SECONDS = 0.25
MAX_PAGES = 8192
"""Parts of a long list: a hub that never comes to the end is not followed for ever."""
RESYNC_SECONDS = 5.0
"""After a lost connection: time that known actors get to show up again before they count as left."""


class HubClient:
    """The hub at one address. Use it as an async context manager, or close it.

    Every method raises Unavailable or DeadlineExceeded when the hub does not answer within
    ``deadline_seconds``, and the hub's own errors otherwise.
    """

    def __init__(self, address: str, *, tls: TlsFiles | None = None, deadline_seconds: float = 5.0) -> None:
        self.address = address
        self._tls = tls
        self._deadline_seconds = deadline_seconds
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> "HubClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; a later call opens a new one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def register(self, actor: Actor) -> tuple[str, float]:
        """Enter the registry; returns the lease id and its seconds. Most callers want :meth:`registered`."""
        response = await self._call(self._stub.Register, pb.RegisterRequest(actor=codec.actor_to_proto(actor)))
        return response.lease_id, response.lease_seconds

    async def heartbeat(self, lease_id: str, status: Mapping[str, str]) -> None:
        """Renew a lease. Raises UnknownName when it has ended."""
        request = pb.HeartbeatRequest(lease_id=lease_id, status=codec.status_to_proto(status))
        await self._call(self._stub.Heartbeat, request)

    async def deregister(self, lease_id: str) -> None:
        """Leave at once."""
        await self._call(self._stub.Deregister, pb.DeregisterRequest(lease_id=lease_id))

    def registered(
        self,
        actor: Actor,
        *,
        status: Callable[[], Mapping[str, str]] = dict,
        environments: Sequence[EnvironmentSpec] = (),
        start_seconds: float = 30.0,
        again: bool = False,
    ) -> AbstractAsyncContextManager[Registration]:
        """In the registry while the block runs, with a heartbeat; re-registers when the hub forgot the lease.

        ``status`` is asked at each heartbeat. ``environments`` are registered with the lease; an empty
        address in one means the actor's own. Raises DeadlineExceeded when the hub is not there within
        ``start_seconds``. ``again``: the environments enter also when they were kept out.
        """
        return registered(
            self, actor, status=status, environments=environments, start_seconds=start_seconds, again=again
        )

    async def list_actors(self, kind: ActorKind | None = None) -> list[Actor]:
        """Live actors of a kind (None: all), sorted by id."""
        found: list[Actor] = []
        after = ""
        for _ in range(MAX_PAGES):
            request = pb.ListActorsRequest(kind=_wire_kind(kind), after=after)
            response = await self._call(self._stub.ListActors, request)
            found += [codec.actor_from_proto(actor, f"actors[{i}]") for i, actor in enumerate(response.actors)]
            if not (after := response.next):
                break
        return found

    async def watch(self, kind: ActorKind | None = None) -> AsyncGenerator[ActorEvent, None]:
        """The present actors as JOINED events, then every change, for ever.

        Survives a lost hub: it dials again until it is back, and reports only what has really changed.
        """
        mirror = RegistryMirror(grace_seconds=RESYNC_SECONDS, clock=time.monotonic)
        while True:
            problem = "it stopped"
            try:
                async with contextlib.aclosing(self._stream(kind, mirror)) as events:
                    async for event in events:
                        yield event
            except RlserveError as error:
                problem = str(error)
            if mirror.connected:
                logger.warning("hub at %s: lost (%s); dialling until it is back", self.address, problem)
            mirror.disconnected()
            await asyncio.sleep(REDIAL_SECONDS)

    async def wait_for(self, kind: ActorKind, *, serves: str | None = None, deadline_seconds: float) -> Actor:
        """The first live actor of a kind that serves a name (None: any).

        Raises DeadlineExceeded that names what is missing and what is there.
        """
        present: dict[str, Actor] = {}
        try:
            async with asyncio.timeout(deadline_seconds):
                async with contextlib.aclosing(self.watch(kind)) as events:
                    async for event in events:
                        _note(present, event)
                        if event.actor.actor_id in present and (serves is None or serves in event.actor.serves):
                            return event.actor
        except TimeoutError:
            pass
        raise DeadlineExceeded(_missing(kind, serves, present, self.address, deadline_seconds))

    async def get_run_state(self) -> RunState:
        """How the run stands. Raises NotReady before the first report."""
        response = await self._call(self._stub.GetRunState, pb.GetRunStateRequest())
        return codec.run_state_from_proto(response.state, "state")

    async def report_run_state(self, state: RunState) -> None:
        """Say how the run stands."""
        await self._call(self._stub.ReportRunState, pb.ReportRunStateRequest(state=codec.run_state_to_proto(state)))

    async def register_environment(self, spec: EnvironmentSpec, *, lease_id: str = "", again: bool = False) -> None:
        """Add or replace an environment; with a lease it leaves with its actor. ``again``: also when kept out."""
        wire = codec.environment_to_proto(spec)
        request = pb.RegisterEnvironmentRequest(spec=wire, lease_id=lease_id, again=again)
        await self._call(self._stub.RegisterEnvironment, request)

    async def unregister_environment(self, name: str, *, keep_out: bool = False) -> None:
        """Remove an environment. Raises UnknownName.

        A live server's heartbeat brings it back within a third of its lease, unless it is to be kept out.
        """
        request = pb.UnregisterEnvironmentRequest(name=name, keep_out=keep_out)
        await self._call(self._stub.UnregisterEnvironment, request)

    async def list_environments(self) -> list[EnvironmentSpec]:
        """Registered environments, sorted by name."""
        found: list[EnvironmentSpec] = []
        after = ""
        for _ in range(MAX_PAGES):
            request = pb.ListEnvironmentsRequest(after=after)
            response = await self._call(self._stub.ListEnvironments, request)
            found += [
                codec.environment_from_proto(spec, f"environments[{i}]") for i, spec in enumerate(response.environments)
            ]
            if not (after := response.next):
                break
        return found

    @property
    def _stub(self) -> "pb_grpc.HubServiceAsyncStub":
        if self._channel is None:
            self._channel = open_channel(self.address, tls=self._tls)
        return pb_grpc.HubServiceStub(self._channel)

    async def _call(self, method: Callable[..., Awaitable[Response]], request: Any) -> Response:
        what = f"hub at {self.address}"
        return await call(method, request, deadline_seconds=self._deadline_seconds, what=what)

    async def _stream(self, kind: ActorKind | None, mirror: RegistryMirror) -> AsyncGenerator[ActorEvent, None]:
        """One Watch call, as far as it goes."""
        stream = self._stub.Watch(pb.WatchRequest(kind=_wire_kind(kind)))
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(stream.read())
                await asyncio.wait({reading}, timeout=_remaining(mirror.deadline))
                for event in mirror.overdue():
                    yield event
                if not reading.done():
                    continue
                with rpc_errors(f"hub at {self.address}"):
                    message = reading.result()
                reading = None
                if message is grpc.aio.EOF:
                    return
                check_bounds(message)
                for event in _told(message, mirror):
                    yield event
        finally:
            if reading is not None:
                reading.cancel()
            stream.cancel()


def _told(message: pb.WatchResponse, mirror: RegistryMirror) -> list[ActorEvent]:
    if message.change == pb.WatchResponse.CHANGE_SYNCED:
        mirror.synced()
        return []
    return mirror.apply(codec.event_from_proto(message))


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _wire_kind(kind: ActorKind | None) -> Any:
    return codec.KIND.encode(kind) if kind else pb.ACTOR_KIND_UNSPECIFIED


def _note(present: dict[str, Actor], event: ActorEvent) -> None:
    present.pop(event.actor.actor_id, None)
    if event.change == "joined":
        present[event.actor.actor_id] = event.actor


def _missing(kind: ActorKind, serves: str | None, present: Mapping[str, Actor], address: str, seconds: float) -> str:
    wanted = f"{kind}: none that serves {serves!r}" if serves else f"{kind}: none"
    there = "; ".join(f"{a.actor_id} serves {', '.join(a.serves) or 'nothing'}" for a in present.values())
    return (
        f"{wanted} joined the hub at {address} within {seconds:g} s (there: {there or 'no one of this kind'}); "
        "start one, or read its log"
    )
