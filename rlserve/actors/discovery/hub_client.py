"""Client of the hub.

``watch``      waits for: changes. Redials a lost hub until it is back; known actors stay known meanwhile.
``wait_for``   waits for: an actor to join. unblocked by: the watch, or its deadline.
``registered`` (:mod:`rlserve.actors.discovery.registration`) sends heartbeats in the background.

Example::

    async with HubClient("10.0.0.5:7000") as hub:
        verifier = await hub.wait_for(ActorKind.VERIFIER, serves="math", deadline_seconds=30)
        async with hub.registered(actor, status=lambda: {"queued": "3"}) as registration:
            await registration.replaced.wait()  # set only if a newer process takes the actor's id
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import grpc.aio

from rlserve.actors.discovery.registration import Registration, registered
from rlserve.actors.discovery.registry_view import RegistryView
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
"""Pause between two attempts: short beside the 3 s heartbeat timeout, long beside one dial on a local network."""
MAX_PAGES = 8192
"""Stops a list from a faulty hub that never ends; far above the 4096 actors that a hub accepts."""
RESYNC_SECONDS = 5.0
"""Time for known actors to re-register after a lost connection before they count as left: more than the default
heartbeat timeout (3 s), within which each of them notices that the hub forgot it."""


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
        # Taken out before the await: a call meanwhile opens a new channel instead of using this one.
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def register(self, actor: Actor) -> tuple[str, float]:
        """Register; returns the registration id and the heartbeat timeout. Most callers want :meth:`registered`."""
        response = await self._call(self._stub.Register, pb.RegisterRequest(actor=codec.actor_to_proto(actor)))
        return response.lease_id, response.lease_seconds

    async def heartbeat(self, registration_id: str, status: Mapping[str, str]) -> None:
        """Renew a registration. Raises UnknownName if it has ended."""
        request = pb.HeartbeatRequest(lease_id=registration_id, status=codec.status_to_proto(status))
        await self._call(self._stub.Heartbeat, request)

    async def deregister(self, registration_id: str) -> None:
        """End a registration now, without waiting for the timeout."""
        await self._call(self._stub.Deregister, pb.DeregisterRequest(lease_id=registration_id))

    def registered(
        self,
        actor: Actor,
        *,
        status: Callable[[], Mapping[str, str]] = dict,
        environments: Sequence[EnvironmentSpec] = (),
        start_seconds: float = 30.0,
        again: bool = False,
    ) -> AbstractAsyncContextManager[Registration]:
        """Keep the actor registered while the block runs; re-registers if the hub forgot it (after a restart).

        ``status`` is called at each heartbeat. ``environments`` are registered together with the actor; an empty
        address in one stands for the actor's own. ``again`` registers them even if they were kept out.
        Raises DeadlineExceeded if the hub does not answer within ``start_seconds``.
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
        """The present actors as JOINED events, then every change; never ends by itself.

        Survives a lost hub: redials until it is back, then reports only real changes.
        """
        view = RegistryView(grace_seconds=RESYNC_SECONDS, clock=time.monotonic)
        while True:
            problem = "it stopped"
            try:
                # Closed when the reader leaves: otherwise the call would last until garbage collection, and the hub
                # would queue its events.
                async with contextlib.aclosing(self._stream(kind, view)) as events:
                    async for event in events:
                        yield event
            except RlserveError as error:
                problem = str(error)
            # Once per loss: the failed attempts that follow find the view disconnected.
            if view.connected:
                logger.warning("hub at %s: connection lost (%s); redialling until it is back", self.address, problem)
            view.disconnected()
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
        """The learner's last report of the run. Raises NotReady before the first one."""
        response = await self._call(self._stub.GetRunState, pb.GetRunStateRequest())
        return codec.run_state_from_proto(response.state, "state")

    async def report_run_state(self, state: RunState) -> None:
        """Publish the state of the run; called by the learner."""
        await self._call(self._stub.ReportRunState, pb.ReportRunStateRequest(state=codec.run_state_to_proto(state)))

    async def register_environment(
        self, spec: EnvironmentSpec, *, registration_id: str = "", again: bool = False
    ) -> None:
        """Add or replace an environment. With a registration id, it is removed together with that actor.

        ``again`` registers it even if it was kept out.
        """
        wire = codec.environment_to_proto(spec)
        request = pb.RegisterEnvironmentRequest(spec=wire, lease_id=registration_id, again=again)
        await self._call(self._stub.RegisterEnvironment, request)

    async def unregister_environment(self, name: str, *, keep_out: bool = False) -> None:
        """Remove an environment. Raises UnknownName.

        The next heartbeat of a live server restores its environment, unless ``keep_out``.
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

    async def _stream(self, kind: ActorKind | None, view: RegistryView) -> AsyncGenerator[ActorEvent, None]:
        """The events of one Watch call, until the stream ends."""
        stream = self._stub.Watch(pb.WatchRequest(kind=_wire_kind(kind)))
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                # Kept over the timeouts below: grpc.aio cancels the whole call when a read is cancelled (grpcio 1.85).
                reading = reading or asyncio.create_task(stream.read())
                await asyncio.wait({reading}, timeout=_remaining(view.deadline))
                for event in view.overdue():
                    yield event
                if not reading.done():
                    continue
                with rpc_errors(f"hub at {self.address}"):
                    message = reading.result()
                reading = None
                if message is grpc.aio.EOF:
                    return
                # ``rpc.channel.call`` does this for unary answers; a stream must do it itself.
                check_bounds(message)
                for event in _events_of(message, view):
                    yield event
        finally:
            if reading is not None:
                reading.cancel()
            stream.cancel()


def _events_of(message: pb.WatchResponse, view: RegistryView) -> list[ActorEvent]:
    if message.change == pb.WatchResponse.CHANGE_SYNCED:
        view.synced()
        return []
    return view.apply(codec.event_from_proto(message))


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
