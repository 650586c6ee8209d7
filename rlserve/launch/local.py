"""Runs a plan as local processes, restarts what dies, stops all of it at the end.

``run``            starts everyone beside the hub, which they dial until it listens; waits for: the learner's exit,
                   a stop request, a hub that does not come up, or an actor that keeps dying. Whatever ends it,
                   every process is stopped before it returns.
``_keep_running``  one task a process. waits for: its exit. unblocked by: the process or ``stop``.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlserve.actors.hub.client import HubClient
from rlserve.actors.process import PARENT_PID
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import DeadlineExceeded, RlserveError
from rlserve.launch.plan import HUB, LEARNER, ProcessSpec, plan_hub, plan_processes
from rlserve.launch.process import Child, describe_exit, last_lines
from rlserve.launch.supervise import RestartPolicy
from rlserve.observability.events import EventLog
from rlserve.records import Change

logger = logging.getLogger(__name__)

RUN_DIRECTORY = "RLSERVE_RUN_DIRECTORY"
"""Marks every process of a run, grandchildren too."""


class RunFailed(RlserveError, RuntimeError):
    """A run cannot go on; the message names the process, its log and the way on."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a process writes its log."""

    spec: ProcessSpec
    log: Path


class LocalLauncher:
    """All processes of one run on this machine."""

    def __init__(self, config: RunConfig, paths: RunPaths, *, resume: bool = False) -> None:
        self._config = config
        self._paths = paths
        self._resume = resume
        self._events = EventLog(paths.events)
        self._children: dict[str, Child] = {}
        self._died_at: dict[str, float] = {}
        self._stopping = asyncio.Event()
        self.hub_address = ""

    async def start_hub(self) -> str:
        """Start the hub and return its address, at which it will listen; ``run`` sees to it that it does.

        Raises RunFailed when something else listens there.
        """
        self.hub_address = _free_port(self._config.hub.address)
        if _is_taken(self.hub_address):
            raise RunFailed(f"hub.address: {self.hub_address!r} is taken; stop what listens there, or take port 0")
        await self._start(plan_hub(self._paths.root, self.hub_address))
        return self.hub_address

    async def run(self) -> None:
        """Run to the learner's end; returns early after ``stop``.

        Raises RunFailed when it fails, DeadlineExceeded when the hub does not come up.
        """
        specs = plan_processes(
            self._config,
            self._paths.root,
            hub_address=self.hub_address,
            resume=self._resume,
            rank_port=int(_free_port("127.0.0.1:0").rsplit(":", 1)[1]),
        )
        hub = plan_hub(self._paths.root, self.hub_address)
        tasks = [asyncio.create_task(self._keep_running(spec), name=spec.name) for spec in (hub, *specs)]
        stopped = asyncio.create_task(self._stopping.wait())
        watching = asyncio.create_task(self._note_recoveries())
        learners = {task for task in tasks if task.get_name() == LEARNER}
        listening = asyncio.create_task(self._hub_listens(self._children[HUB]))
        pending = {*tasks, stopped, listening}
        try:
            while not (learners & {t for t in pending if t.done()}) and not stopped.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()
                if done & learners:
                    return
        finally:
            for task in (*tasks, stopped, watching, listening):
                task.cancel()
            await asyncio.gather(*tasks, stopped, watching, listening, return_exceptions=True)

    def request_stop(self) -> None:
        """Make ``run`` return; ``close`` then stops the processes."""
        self._stopping.set()

    async def close(self) -> None:
        """Stop everything: learner first (it saves), the hub last."""
        order = sorted(self._children.values(), key=lambda c: (c.spec.name == HUB, c.spec.kind != LEARNER))
        grace = self._config.launch.stop_seconds
        learners = [c for c in order if c.spec.kind == LEARNER]
        others = [c for c in order if c.spec.kind not in (LEARNER, HUB)]
        for batch in (learners, others, [c for c in order if c.spec.name == HUB]):
            await asyncio.gather(*(child.stop(grace) for child in batch))

    async def _keep_running(self, spec: ProcessSpec) -> None:
        policy = RestartPolicy(
            backoff_seconds=self._config.launch.restart_backoff_seconds,
            max_restarts=self._config.launch.max_restarts,
        )
        child = self._children.get(spec.name) or await self._start(spec)
        while True:
            status = await child.wait()
            child.kill()
            if not spec.restartable:
                self._ended_for_good(spec, status)
                return
            if status == 0:
                return
            self._died_at[spec.name] = time.monotonic()
            self._events.write("actor_died", actor=spec.name, how=describe_exit(status))
            pause = policy.pause_after_death(time.monotonic())
            if pause is None:
                raise RunFailed(self._gave_up(spec, status))
            logger.info("%s: %s; restarting in %.1f s", spec.name, describe_exit(status), pause)
            await asyncio.sleep(pause)
            child = await self._start(spec)
            self._events.write("actor_restarted", actor=spec.name, pid=child.pid)

    async def _note_recoveries(self) -> None:
        """Record how long each death lasted: until the hub heard of the actor again."""
        async with HubClient(self.hub_address) as hub:
            async for event in hub.watch():
                died = self._died_at.get(event.actor.actor_id)
                if event.change is Change.JOINED and died is not None:
                    del self._died_at[event.actor.actor_id]
                    seconds = round(time.monotonic() - died, 2)
                    self._events.write("actor_recovered", actor=event.actor.actor_id, seconds=seconds)

    def _ended_for_good(self, spec: ProcessSpec, status: int) -> None:
        if status == 0:
            return
        self._events.write("actor_died", actor=spec.name, how=describe_exit(status))
        log = self._log(spec)
        way_on = (
            f"the queue and the last checkpoint are kept. Go on with `rlserve run --resume {self._paths.root}`"
            if spec.kind == LEARNER
            else "the start checkpoint was not made; mend the cause and start the run anew"
        )
        raise RunFailed(f"{spec.name}: {describe_exit(status)}; {way_on}. End of {log}:\n{last_lines(log)}")

    def _gave_up(self, spec: ProcessSpec, status: int) -> str:
        return (
            f"{spec.name}: {describe_exit(status)}, and restarted {self._config.launch.max_restarts} times "
            f"already (launch.max_restarts). End of {self._log(spec)}:\n{last_lines(self._log(spec))}"
        )

    async def _start(self, spec: ProcessSpec) -> Child:
        child = await Child.start(spec, self._log(spec), self._environment())
        self._children[spec.name] = child
        return child

    def _environment(self) -> Mapping[str, str]:
        return {
            PARENT_PID: str(os.getpid()),
            RUN_DIRECTORY: str(self._paths.root.resolve()),
            "PYTHONUNBUFFERED": "1",
        }

    def _log(self, spec: ProcessSpec) -> Path:
        return self._paths.logs / f"{spec.name}.log"

    async def _hub_listens(self, child: Child) -> None:
        seconds = self._config.launch.start_seconds
        death = asyncio.create_task(child.wait())
        listening = asyncio.create_task(_answers(self.hub_address))
        try:
            done, _ = await asyncio.wait({death, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            listening.cancel()
        if listening in done:
            return
        if death in done:
            log = self._log(child.spec)
            raise RunFailed(f"hub: {describe_exit(death.result())} at start. End of {log}:\n{last_lines(log)}")
        raise DeadlineExceeded(
            f"hub: does not listen at {self.hub_address} after {seconds:.0f} s (launch.start_seconds); see its log"
        )


async def _answers(address: str) -> None:
    """Return once somebody takes connections."""
    host, port = address.rsplit(":", 1)
    while True:
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


def _is_taken(address: str) -> bool:
    """Whether somebody listens at ``address``; what else is wrong with it, the hub says."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host.strip("[]"), int(port))).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _free_port(address: str) -> str:
    """``address`` with port 0 replaced by a free one: a restarted hub must keep its port."""
    host, _, port = address.rpartition(":")
    if port != "0":
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
