"""Balances calls over the live actors of one kind.

``call``     waits for: an endpoint that serves the name, then its answer. unblocked by: an actor that joins,
             the answer, the expiry of that actor (then another is called), the deadline.
``_follow``  waits for: changes of the registry. Ends with the pool.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio

from rlserve.actors.discovery.endpoint import Endpoint, EndpointLost
from rlserve.actors.discovery.hub_client import HubClient
from rlserve.errors import DeadlineExceeded, EngineDied, NotReady, PluginFailed, RlserveError, Unavailable
from rlserve.records import ActorEvent, ActorKind, Change
from rlserve.rpc.options import ChannelOptions
from rlserve.rpc.tls import TlsFiles

logger = logging.getLogger(__name__)

Response = TypeVar("Response")
MethodOf = Callable[[grpc.aio.Channel], Callable[..., Awaitable[Response]]]
"""Picks the method to call on a channel, e.g. ``lambda c: VerifierServiceStub(c).Verify``."""

ATTEMPTS = 5
"""Enough for a pool in which a few hosts are broken; a request that fails on five servers is itself the cause."""
# Errors that another server, or the same one restarted, may not raise. A plain RlserveError is a defect of that server.
RETRIABLE = (Unavailable, EngineDied, NotReady, PluginFailed)


class EndpointPool:
    """Channels to all live actors of one kind, kept up to date by a hub watch. An async context manager.

    Example::

        async with HubClient(address) as hub, EndpointPool(hub, ActorKind.VERIFIER) as pool:
            result = await pool.call(
                lambda c: VerifierServiceStub(c).Verify, request, serves="math", deadline_seconds=60
            )
    """

    def __init__(
        self,
        hub: HubClient,
        kind: ActorKind,
        *,
        tls: TlsFiles | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self._hub = hub
        self._kind = kind
        self._tls = tls
        self._options = options
        self._endpoints: dict[str, Endpoint] = {}
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "EndpointPool":
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))
        self._endpoints.clear()

    @property
    def endpoints(self) -> list[Endpoint]:
        """Endpoints of the actors that are alive now."""
        return list(self._endpoints.values())

    async def call(
        self,
        method_of: MethodOf[Response],
        request: Any,
        *,
        serves: str | None = None,
        deadline_seconds: float,
        attempts: int = ATTEMPTS,
        attempt_seconds: float | None = None,
    ) -> Response:
        """The answer of one endpoint that serves a name (None: any), for idempotent calls.

        Calls the least busy endpoint first. An endpoint that dies, fails or (with ``attempt_seconds``) takes too
        long is passed over for a while and another one called; if none is left, the call waits for one to join,
        for instance the same actor restarted on another port. Only failures while an endpoint worked on the
        request count against ``attempts``; after that the last error is raised. Errors that every endpoint would
        return, such as InvalidRequest, are raised at once. Raises DeadlineExceeded, which lists the endpoints
        and the last error.
        """
        trial = _Trial(self._kind, serves, deadline_seconds)
        try:
            async with asyncio.timeout(deadline_seconds):
                while True:
                    endpoint = await self._pick(serves)
                    try:
                        return await endpoint.call(
                            method_of, request, deadline_seconds=trial.remaining(attempt_seconds)
                        )
                    except RlserveError as error:
                        trial.note(endpoint, error)
                        if not _worth_another(error, attempt_seconds) or trial.failures >= attempts:
                            raise
                        logger.info("%s: %s; calling another endpoint", endpoint.actor.actor_id, error)
        except TimeoutError as error:
            # DeadlineExceeded is a TimeoutError: with time left it is an endpoint's own, and more specific than the
            # story.
            if isinstance(error, DeadlineExceeded) and trial.remaining(None) > 0:
                raise
            raise DeadlineExceeded(trial.story(self.endpoints)) from None

    async def _pick(self, serves: str | None) -> Endpoint:
        """The least busy endpoint that is not passed over; waits for one."""
        while True:
            # Read before the endpoints: an actor that joins in between sets this event, not the next one.
            changed = self._changed
            able = [e for e in self._endpoints.values() if serves is None or serves in e.actor.serves]
            now = time.monotonic()
            ready = [e for e in able if e.aside_until <= now]
            if ready:
                # last_used breaks ties, so that idle endpoints take turns.
                return min(ready, key=lambda e: (e.in_flight, e.last_used))
            # Until the first of them counts again. Without any, only an actor that joins can end the wait.
            pause = min((e.aside_until - now for e in able), default=None)
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()

    async def _follow(self) -> None:
        async for event in self._hub.watch(self._kind):
            await self._apply(event)
            self._changed.set()
            # A new event instead of clear(): a caller that read this one, and begins to wait for it later, still finds
            # it set.
            self._changed = asyncio.Event()

    async def _apply(self, event: ActorEvent) -> None:
        actor = event.actor
        if event.change is Change.JOINED:
            # By incarnation, not by id: the end of an old process must not take away its successor's endpoint.
            self._endpoints[actor.incarnation] = Endpoint(actor, tls=self._tls, options=self._options)
        elif (endpoint := self._endpoints.pop(actor.incarnation, None)) is not None:
            # An actor that left by itself finishes its calls; one that expired will answer none.
            await endpoint.retire(lost=event.change is Change.EXPIRED)


def _worth_another(error: RlserveError, attempt_seconds: float | None) -> bool:
    # Without a limit of its own, an attempt may take all the time of the call: another one would have none.
    if isinstance(error, DeadlineExceeded):
        return attempt_seconds is not None
    return type(error) is RlserveError or isinstance(error, RETRIABLE)


class _Trial:
    """The attempts of one call so far."""

    def __init__(self, kind: ActorKind, serves: str | None, deadline_seconds: float) -> None:
        self._what = f"{kind} that serves {serves!r}" if serves else str(kind)
        self._deadline_seconds = deadline_seconds
        self._deadline = time.monotonic() + deadline_seconds
        self._last = ""
        self.failures = 0

    def remaining(self, attempt_seconds: float | None) -> float:
        """Seconds for the next attempt."""
        left = max(self._deadline - time.monotonic(), 0.0)
        return left if attempt_seconds is None else min(left, attempt_seconds)

    def note(self, endpoint: Endpoint, error: RlserveError) -> None:
        """Record a failed attempt; a lost or unreachable endpoint does not count against the request."""
        endpoint.leave_aside()
        self._last = f"{type(error).__name__}: {error}"
        if not isinstance(error, EndpointLost):
            self.failures += 1

    def story(self, endpoints: list[Endpoint]) -> str:
        """The message of the error at the deadline."""
        there = ", ".join(f"{e.actor.actor_id} at {e.actor.address}" for e in endpoints) or "none"
        last = f"; the last attempt ended with {self._last}" if self._last else ""
        return f"{self._what}: no answer within {self._deadline_seconds:g} s (alive: {there}){last}"
