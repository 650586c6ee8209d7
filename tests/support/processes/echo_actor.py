"""A small actor in a process of its own, run by run_actor.

``python echo_actor.py ID HUB SERVES [MODE]`` prints its address once it is registered. Its one method,
``/test.Echo/Who``, answers ``ID PID``, but first sleeps for ``sleep SECONDS``, kills its own process for
``die``, and raises for ``fail`` (its own fault) and ``refuse`` (the caller's).
MODE: ``slow-start`` takes a minute to start, ``slow-drain`` half a second to end, ``fails`` raises after a
moment, ``ends`` finishes its work after a moment. ``stuck-task``, ``stuck-drain`` and ``stuck-thread`` never end
when they are asked to, and have 1 s.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from rlserve.actors.process import die_with_parent, run_actor
from rlserve.errors import InvalidRequest, StateCorrupt, VerifierFailed
from rlserve.records import ActorKind
from rlserve.rpc.server import serving

SERVICE = "test.Echo"


def who(channel: grpc.aio.Channel) -> Any:
    """The method, for a pool's call."""
    return channel.unary_unary(f"/{SERVICE}/Who")


class Echo:
    def __init__(self, actor_id: str) -> None:
        self._actor_id = actor_id
        self.calls = 0

    async def answer(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        word, _, argument = request.decode().partition(" ")
        if word == "sleep":
            await asyncio.sleep(float(argument))
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "fail":
            raise VerifierFailed(f"{self._actor_id}: broke")
        if word == "refuse":
            raise InvalidRequest("word: is 'refuse'; say another")
        return f"{self._actor_id} {os.getpid()}".encode()

    def add_to(self, server: grpc.aio.Server) -> None:
        handlers = {"Who": grpc.unary_unary_rpc_method_handler(self.answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def main(actor_id: str, hub: str, serves: str, mode: str = "") -> int:
    echo = Echo(actor_id)

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        print("starting", flush=True)
        await asyncio.sleep(60 if mode == "slow-start" else 0)
        async with serving(echo.add_to, service_names=[SERVICE]) as server:
            yield server.address
        await asyncio.sleep({"slow-drain": 0.5, "stuck-drain": 3600}.get(mode, 0))
        print("drained", flush=True)

    async def work() -> None:
        print("registered", flush=True)
        if mode == "stuck-thread":
            await asyncio.to_thread(time.sleep, 3600)
        while mode == "stuck-task":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        await asyncio.sleep(0.1 if mode in ("fails", "ends") else 3600)
        if mode == "fails":
            raise StateCorrupt("counts: do not add up")

    return await run_actor(
        kind=ActorKind.VERIFIER,
        actor_id=actor_id,
        hub_address=hub,
        serve=serve(),
        serves=[serves],
        status=lambda: {"calls": str(echo.calls)},
        work=work,
        stop_seconds=1.0 if mode.startswith("stuck") else 30.0,
    )


if __name__ == "__main__":
    die_with_parent()
    sys.exit(asyncio.run(main(*sys.argv[1:])))
