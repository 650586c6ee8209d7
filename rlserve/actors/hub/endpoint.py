"""One live actor as a place to send calls to."""

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
ASIDE_SECONDS = 0.25
MAX_ASIDE_SECONDS = 2.0


class EndpointLost(Unavailable):
    """The actor could not be reached, or its lease ran out while it had the request."""


class Endpoint:
    """A channel to one process of one actor, and how it does.

    ``call`` waits for: a connection, the answer. unblocked by: its deadline or :meth:`retire`.
    """

    def __init__(self, actor: Actor, *, tls: TlsFiles | None, options: ChannelOptions | None) -> None:
        self.actor = actor
        self.in_flight = 0
        self.last_used = 0.0
        """Monotonic seconds of the last call's start."""
        self.aside_until = 0.0
        """Monotonic seconds until which others are preferred, after a failure."""
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
        """One call. Raises EndpointLost when the actor is not there (any more), else the server's error."""
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
            if self._retired and not self.in_flight:
                await self._channel.close()

    def leave_aside(self) -> None:
        """Prefer others for a while: twice as long after each failure in a row."""
        self.aside_until = time.monotonic() + self._aside_seconds
        self._aside_seconds = min(2 * self._aside_seconds, MAX_ASIDE_SECONDS)

    async def retire(self, *, lost: bool) -> None:
        """No new calls. Those running end (it left and drains), or fail over at once (it is ``lost``)."""
        self._retired = True
        if lost:
            self._lost.set()
        if not self.in_flight:
            await self._channel.close()

    async def close(self) -> None:
        """Close the channel and end its calls."""
        await self._channel.close()

    async def _connect(self, deadline_seconds: float) -> None:
        """Know that there is a connection, so that a failure afterwards is the request's and not the dial's."""
        problem = "does not answer"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(CONNECT_SECONDS, deadline_seconds)):
                while (state := self._channel.get_state(try_to_connect=True)) is not State.READY:
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
            raise EndpointLost(f"{self.actor.actor_id}: its lease ran out while it had the request")
        finally:
            for task in (working, lost):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await lost
