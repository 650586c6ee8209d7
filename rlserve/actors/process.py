"""The life of every actor process: register, react to signals, drain, exit code, stop within a deadline.

An actor's ``main.py`` gives :func:`run_actor` a context manager that starts its server, and is done::

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with VerifierPool(...) as pool, serving(add, address=..., service_names=[...]) as server:
            yield server.address

    return await run_actor(
        kind=ActorKind.VERIFIER, actor_id=actor_id, hub_address=hub_address, serve=serve(), serves=["math"]
    )
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.starting import NO_ADDRESS, announced
from rlserve.actors.stop import stop_signals
from rlserve.actors.stop_deadline import STOP_SECONDS, end_within
from rlserve.errors import ConfigError, InvalidRequest, PluginFailed, RlserveError, UnknownName
from rlserve.records import Actor, ActorKind, EnvironmentSpec

logger = logging.getLogger(__name__)

PARENT_PID = "RLSERVE_PARENT_PID"
"""Environment variable with the launcher's pid."""

EXIT_FAILED = 1  # what Python exits with after an exception
EXIT_REPLACED = 3
"""A newer process has this actor's id."""
EXIT_STOPPED = 143
"""A learner that a signal stopped, after it saved a checkpoint: 128 + SIGTERM, as shells report it."""
EXIT_CONFIG = 78
"""The configuration cannot work (``EX_CONFIG`` of sysexits.h): restarting the actor would not help."""
CONFIGURATION_FAULTS = (InvalidRequest, UnknownName, PluginFailed)
"""Errors that count as a faulty configuration if an actor's start raises them."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Let the kernel kill this process when the launcher dies; does nothing without RLSERVE_PARENT_PID.

    Call it first in a process that a launcher started. Removes the variable, so that children of this process do not
    take the launcher for their parent. Linux only; elsewhere the process outlives its launcher.
    """
    parent = os.environ.pop(PARENT_PID, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # If the launcher died before the call above, no signal will ever come.
    if os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)


async def run_actor(
    *,
    kind: ActorKind,
    actor_id: str,
    hub_address: str,
    serve: AbstractAsyncContextManager[str],
    serves: Sequence[str] = (),
    environments: Sequence[EnvironmentSpec] = (),
    status: Callable[[], Mapping[str, str]] = dict,
    work: Callable[[], Awaitable[None]] | None = None,
    doing: Callable[[], str] | None = None,
    run_id: str = "",
    stop_seconds: float = STOP_SECONDS,
) -> int:
    """Serve and stay registered until SIGTERM, SIGINT, the end of ``work`` or a failure; returns the exit code.

    ``serve`` starts the actor's server and yields the address that others dial; it is exited last, so that the server
    drains after the actor has left the hub. ``serves`` are the names that the actor serves, ``environments`` the specs
    that it offers (an empty address stands for its own). ``status`` is called at each heartbeat. ``work`` runs beside
    the server: the actor stops with 0 when it returns, with 1 when it raises; a signal cancels it. ``doing`` says what
    a long start does: the hub lists the actor as starting meanwhile, and others wait for it. With an empty
    ``hub_address`` the actor does not register. Once the stop has begun, the process must end within ``stop_seconds``.

    Exit codes: 0 stopped as requested; 1 failed (see the log); 3 a newer process has this id; 4 the stop hung (the log
    lists what it waited for); 78 the configuration cannot work: the start failed because of it, or ``work`` raised
    ConfigError.
    """
    started = asyncio.Event()

    async def live(stopped: asyncio.Event) -> int:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            try:
                actor = _actor(kind, actor_id, NO_ADDRESS, serves, run_id)
                async with announced(hub_address if doing else "", actor, doing or str):
                    address = await stack.enter_async_context(serve)
                # After the server: others dial an actor as soon as the hub lists it.
                actor = replace(actor, address=address)
                replaced = await _join(stack, hub_address, actor, status, environments)
                # From here a signal ends the actor by _until_the_end; before, _abort_start cancels the start.
                started.set()
                logger.info("%s %s serves at %s", kind, actor_id, address)
                return await _until_the_end(
                    stopped, replaced, work, ending=lambda: end_within(stop_seconds, actor_id, loop=loop)
                )
            finally:
                logger.info("%s %s stops", kind, actor_id)

    with stop_signals() as stopped:
        living = asyncio.create_task(live(stopped))
        aborting = asyncio.create_task(_abort_start(living, stopped=stopped, started=started))
        try:
            return await living
        except asyncio.CancelledError:
            # _abort_start cancelled it: a stop as requested, of an actor that served no call yet.
            if stopped.is_set() and not started.is_set():
                return 0
            raise
        except RlserveError as error:
            logger.error("%s: %s: %s", actor_id, type(error).__name__, error)
            # Once the actor serves, InvalidRequest and its like may come from a peer, which is no fault of the
            # configuration.
            if isinstance(error, ConfigError if started.is_set() else CONFIGURATION_FAULTS):
                return EXIT_CONFIG
        # Of unknown cause, so that a restart may help: exit code 1, not EXIT_CONFIG.
        except Exception:
            logger.exception("%s: failed", actor_id)
        finally:
            aborting.cancel()
        return EXIT_FAILED


async def _abort_start(living: asyncio.Task[int], *, stopped: asyncio.Event, started: asyncio.Event) -> None:
    """Cancel a start that is still under way when the stop signal comes."""
    await stopped.wait()
    if not started.is_set():
        living.cancel()


def _actor(kind: ActorKind, actor_id: str, address: str, serves: Sequence[str], run_id: str) -> Actor:
    return Actor(
        actor_id=actor_id,
        kind=kind,
        address=address,
        incarnation=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        serves=tuple(serves),
        run_id=run_id,
    )


async def _join(
    stack: AsyncExitStack,
    hub_address: str,
    actor: Actor,
    status: Callable[[], Mapping[str, str]],
    environments: Sequence[EnvironmentSpec],
) -> asyncio.Event:
    if not hub_address:
        return asyncio.Event()
    hub = await stack.enter_async_context(HubClient(hub_address))
    registration = await stack.enter_async_context(hub.registered(actor, status=status, environments=environments))
    return registration.replaced


async def _until_the_end(
    stopped: asyncio.Event,
    replaced: asyncio.Event,
    work: Callable[[], Awaitable[None]] | None,
    *,
    ending: Callable[[], object],
) -> int:
    waits = [asyncio.ensure_future(event.wait()) for event in (stopped, replaced)]
    working = asyncio.ensure_future(work()) if work else None
    tasks = {*waits, working} if working else {*waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working and working.done():
            await working
            return 0
        return EXIT_REPLACED if replaced.is_set() else 0
    finally:
        # Before anything is awaited: the deadline is there to end a task that ignores its cancellation.
        ending()
        for task in tasks:
            task.cancel()
        for task in tasks:
            # Awaited, so that ``work`` has cleaned up before the server stops.
            with contextlib.suppress(asyncio.CancelledError):
                await task
