"""A channel to one live actor."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc.aio
from grpc import ChannelConnectivity as State

from rlserve.errors import Unavailable
from rlserve.records import Actor
from rlserve.rpc.channel import call, open_channel
from rlserve.rpc.options import ChannelOptions
from rlserve.rpc.tls import TlsFiles

Response = TypeVar("Response")

CONNECT_SECONDS = 2.0
"""A healthy host accepts within milliseconds; later than this, another endpoint is the better choice."""
ASIDE_SECONDS = 0.25
"""How long an endpoint is passed over after its first failure: enough for another to take the retry."""
MAX_ASIDE_SECONDS = 2.0
"""Upper bound of the doubling, so that an endpoint that recovered gets calls again soon."""


class EndpointLost(Unavailable):
    """The actor could not be reached, or its registration expired during the call."""


class Endpoint:
    """A channel to one process of one actor, with its load and recent failures.

    ``call`` waits for: a connection, the answer. unblocked by: its deadline or :meth:`retire`.
    """

    def __init__(self, actor: Actor, *, tls: TlsFiles | None, options: ChannelOptions | None) -> None:
        self.actor = actor
        self.in_flight = 0
        self.last_used = 0.0
        """Monotonic seconds of the last call's start."""
        self.aside_until = 0.0
        """Monotonic seconds until which other endpoints are preferred, after a failure."""
        self._aside_seconds = ASIDE_SECONDS
        self._channel = open_channel(actor.address, tls=tls, options=options)
        self._lost = asyncio.Event()
        self._retired = False

    async def call(
        self,
        method_of: Callable[[grpc.aio.Channel], Callable[..., Awaitable[Response]]],
        request: Any,
        *,
        deadline_seconds: float,
    ) -> Response:
        """One call. Raises EndpointLost if the actor is unreachable or expires meanwhile, else the server's error."""
        # Counted before the connect, so that a burst of calls spreads, and retire() leaves the channel open for this
        # one.
        self.in_flight += 1
        self.last_used = time.monotonic()
        try:
            await self._connect(deadline_seconds)
            what = f"{self.actor.actor_id} at {self.actor.address}"
            answer = call(method_of(self._channel), request, deadline_seconds=deadline_seconds, what=what)
            response = await self._unless_lost(answer)
            self._aside_seconds = ASIDE_SECONDS
            return response
        finally:
            self.in_flight -= 1
            # retire() leaves the channel to the last running call.
            if self._retired and not self.in_flight:
                await self._channel.close()

    def leave_aside(self) -> None:
        """Prefer other endpoints for a while: twice as long after each consecutive failure."""
        self.aside_until = time.monotonic() + self._aside_seconds
        self._aside_seconds = min(2 * self._aside_seconds, MAX_ASIDE_SECONDS)

    async def retire(self, *, lost: bool) -> None:
        """Close after the running calls; if ``lost``, fail them now so that they are retried elsewhere."""
        self._retired = True
        if lost:
            self._lost.set()
        if not self.in_flight:
            await self._channel.close()

    async def close(self) -> None:
        """Close the channel and end its calls."""
        await self._channel.close()

    async def _connect(self, deadline_seconds: float) -> None:
        """Wait until connected, so that a later failure is attributed to the request and not to dialling."""
        problem = "does not answer"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(CONNECT_SECONDS, deadline_seconds)):
                while (state := self._channel.get_state(try_to_connect=True)) is not State.READY:
                    # Not waited out: gRPC would dial again after a pause, and another endpoint may answer now.
                    if state in (State.TRANSIENT_FAILURE, State.SHUTDOWN):
                        problem = "cannot be reached"
                        break
                    await self._channel.wait_for_state_change(state)
                else:
                    return
        raise EndpointLost(f"{self.actor.actor_id}: {problem} at {self.actor.address}")

    async def _unless_lost(self, answer: Awaitable[Response]) -> Response:
        working = asyncio.ensure_future(answer)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise EndpointLost(f"{self.actor.actor_id}: its heartbeat timed out during the call")
        finally:
            # Also when this call is cancelled: asyncio.wait leaves its tasks running.
            for task in (working, lost):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await lost
