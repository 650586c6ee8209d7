"""Runs a plan: starts its processes, keeps them alive, stops all of them at the end.

A launcher is this class with ``_start``: where and how one process is started.

``run``    starts all actors beside the hub, which they dial until it listens; waits for: the learner's exit, a stop
           request, a hub that does not come up, an actor that keeps dying, or one that exits because the configuration
           cannot work. ``close`` then stops every process.
``close``  waits for: the children's exits, by stages. unblocked by: ``launch.stop_seconds`` for each stage, or
           ``hurry``, which kills all at once.
"""

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.process import PARENT_PID
from rlserve.config.digest import DIGEST
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, DeadlineExceeded
from rlserve.launch.base import RunFailed
from rlserve.launch.gpus import gpus_to_plan
from rlserve.launch.plan import HUB, LEARNER, ProcessSpec, plan_hub
from rlserve.launch.ports import answers, is_taken, on_host, with_free_port
from rlserve.launch.process import Child
from rlserve.launch.scaling.pools import Pools
from rlserve.launch.scaling.scaler import Scaler
from rlserve.launch.supervision import silence
from rlserve.launch.supervision.actors import keep_running
from rlserve.launch.supervision.deaths import Deaths, quoted
from rlserve.launch.supervision.learner import keep_training
from rlserve.launch.supervision.silence import Silences, Starts
from rlserve.launch.supervision.started import Started
from rlserve.observability.events import EventLog
from rlserve.records import Change

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Longest time until the end of a process that was added during the run is noticed."""
POLL_SECONDS = 0.05
"""Between two looks whether a process was started; any value far below a start will do."""
OVER_SECONDS = 60.0
"""Longest time from an actor's own end to the learner's at the end of a run: the learner still saves and measures."""
RUN_DIRECTORY = "RLSERVE_RUN_DIRECTORY"
"""Environment variable of every process of a run, grandchildren included, by which they are found."""


class Supervisor(ABC):
    """All processes of one run: see :class:`rlserve.launch.base.Launcher`."""

    def __init__(self, config: RunConfig, paths: RunPaths, *, digest: str) -> None:
        """``digest`` is that of the ``config.toml`` that the actors must find. Raises ConfigError."""
        if config.launch.options:
            raise ConfigError(
                f"launch.options: is {dict(config.launch.options)}, but launcher {config.launch.type!r} takes none"
            )
        self._config = config
        self._digest = digest
        self._paths = paths
        self._events = EventLog(paths.events)
        self._deaths = Deaths(paths)
        self._children: dict[str, Started] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        """What keeps each process but the learner's alive, by name."""
        self._learning: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.hub_address = ""

    @abstractmethod
    async def _start(self, spec: ProcessSpec) -> Started:
        """Start a process of the run, or start it again."""

    @abstractmethod
    async def _meeting_point(self, rank0: ProcessSpec) -> tuple[str, int]:
        """Host and free port at which the learner's ranks meet; rank 0 binds it."""

    @property
    def _hub_host(self) -> str:
        """Where the hub listens instead of this machine alone; empty: as configured."""
        return self._config.launch.host

    async def start_hub(self) -> str:
        # One port for the whole run: actors keep dialling it while a hub that died is started again.
        self.hub_address = with_free_port(on_host(self._config.hub.address, self._hub_host))
        # Else actors would register at a stranger, for example the hub of another run, while this one's fails to bind.
        if is_taken(self.hub_address):
            raise RunFailed(f"hub.address: {self.hub_address!r} is taken; stop what listens there, or take port 0")
        await self._started(plan_hub(self._paths.root, self.hub_address))
        return self.hub_address

    async def run(self, specs: Sequence[ProcessSpec]) -> None:
        ranks = [spec for spec in specs if spec.kind == LEARNER]
        hub = self._children[HUB]
        self._scaler = Scaler(self._config, self._paths, Pools(self._config, specs, gpus_to_plan(self._config)), self)
        # All at once: actors import their libraries and dial until the hub listens, so that nothing waits for anything
        # else.
        self._keeping = {HUB: asyncio.create_task(self._keep(hub))}
        for spec in specs:
            if spec.kind != LEARNER:
                self._keep_going(spec)
        listening = asyncio.create_task(self._hub_listens(hub))
        self._learning = learning = asyncio.create_task(self._keep_learner(ranks))
        stopped = asyncio.create_task(self._stopping.wait())
        # These only observe: no failure of theirs ends a run.
        observing = [asyncio.create_task(work) for work in self._observers()]
        over: set[asyncio.Task[Any]] = set()
        try:
            while not (learning.done() or stopped.done()):
                pending = {*self._keeping.values(), listening, learning, stopped} - over
                # The timeout, since a process that was added meanwhile has a task that this wait does not know.
                done, _ = await asyncio.wait(pending, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                over |= done
                for task in done - {stopped}:
                    # Raises the RunFailed of an actor that was given up, or of a hub that does not come up.
                    if not task.cancelled():  # as that of a process that was removed is
                        task.result()
        finally:
            every = (*self._keeping.values(), listening, learning, stopped, *observing)
            # The tasks that restart processes end first: close() would otherwise stop actors that come back.
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)

    def request_stop(self) -> None:
        self._stopping.set()

    def hurry(self) -> None:
        for child in self._children.values():
            child.kill()

    async def close(self) -> list[str]:
        every = list(self._children.values())
        grace = self._config.launch.stop_seconds
        # Each stage has its own grace: the learner saves a checkpoint while workers still answer, and the hub is last
        # because the others unregister at it.
        learners = [c for c in every if c.spec.kind == LEARNER]
        others = [c for c in every if c.spec.kind not in (LEARNER, HUB)]
        killed: list[str] = []
        for batch in (learners, others, [c for c in every if c.spec.name == HUB]):
            obeyed = await asyncio.gather(*(child.stop(grace) for child in batch))
            killed += [child.spec.name for child, did in zip(batch, obeyed, strict=True) if not did]
        for name in killed:
            self._events.note("actor_killed", actor=name, seconds=grace)
        return killed

    def _observers(self) -> Sequence[Coroutine[Any, Any, None]]:
        return (
            self._note_recoveries(),
            self._scaler.run(self.hub_address),
            silence.watch(self.hub_address, self._living, self._warn, Silences(), self._note_start, Starts()),
        )

    def running(self) -> Sequence[ProcessSpec]:
        return [child.spec for name, child in self._children.items() if name in self._keeping and name != HUB]

    async def add(self, specs: Sequence[ProcessSpec]) -> None:
        await self._make_room(specs)
        for spec in specs:
            self._keep_going(spec)
            # Until it is one of the running ones, or the same name would be given twice.
            while spec.name not in self._children and not self._keeping[spec.name].done():
                await asyncio.sleep(POLL_SECONDS)

    async def remove(self, name: str) -> None:
        self._keeping.pop(name).cancel()
        child = self._children[name]
        if not await child.stop(self._config.launch.stop_seconds):
            self._events.note("actor_killed", actor=name, seconds=self._config.launch.stop_seconds)
        # Only now: a stop of the run meanwhile must find it.
        del self._children[name]
        self._left(child.spec)

    async def _make_room(self, specs: Sequence[ProcessSpec]) -> None:
        """What more processes need before they start. Raises RlserveError when there is no room for them."""
        return

    def _left(self, spec: ProcessSpec) -> None:
        """A process left for good: its room is free."""
        return

    def _keep_going(self, spec: ProcessSpec) -> None:
        self._keeping[spec.name] = asyncio.create_task(self._keep_one(spec))

    async def _keep_one(self, spec: ProcessSpec) -> None:
        await self._keep(await self._started(spec))

    async def _keep(self, child: Started) -> None:
        await keep_running(child, self._started, self._config.launch, self._deaths, self._run_ends)

    async def _keep_learner(self, ranks: Sequence[ProcessSpec]) -> None:
        children = await self._start_ranks(ranks)
        await keep_training(children, self._start_ranks, self._config.launch, self._deaths)

    async def _start_ranks(self, ranks: Sequence[ProcessSpec]) -> list[Started]:
        host, port = await self._meeting_point(ranks[0])
        # The names that torchrun sets, so that RankInfo reads ranks started by hand in the same way.
        meeting = {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
        specs = [replace(spec, environment={**spec.environment, **meeting}) for spec in ranks]
        return list(await asyncio.gather(*map(self._started, specs)))

    async def _started(self, spec: ProcessSpec) -> Started:
        child = await self._start(spec)
        self._children[spec.name] = child
        return child

    async def _start_here(self, spec: ProcessSpec) -> Child:
        """Start a process as a child of this one."""
        # die_with_parent compares it: a launcher that died before the child asked for the death signal is noticed.
        environment = {**self._environment(), PARENT_PID: str(os.getpid())}
        return await Child.start(spec, self._paths.logs / f"{spec.name}.log", environment)

    def _environment(self) -> Mapping[str, str]:
        return {
            RUN_DIRECTORY: str(self._paths.root.resolve()),
            DIGEST: self._digest,
            # Else the last lines of a killed process stay in its buffer, and the log lacks the cause.
            "PYTHONUNBUFFERED": "1",
        }

    async def _run_ends(self) -> bool:
        """Whether an actor that ended well was right: the learner ends soon after it.

        The actor may have received its goodbye from another process.
        """
        if self._learning is not None:
            # wait(), unlike wait_for(), leaves the task running at the timeout and raises nothing. The task, not the
            # process: a learner that was killed is started again.
            await asyncio.wait({self._learning}, timeout=OVER_SECONDS)
        return self._learning is not None and self._learning.done()

    def _living(self) -> Mapping[str, int]:
        return {name: child.pid for name, child in self._children.items() if child.running}

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self._events.note("warning", message=message, cause=message)

    def _note_start(self, name: str, doing: str, seconds: float) -> None:
        logger.info("%s starts: it %s, %.0f s so far", name, doing, seconds)
        self._events.note("actor_starts", actor=name, doing=doing, seconds=round(seconds))

    async def _note_recoveries(self) -> None:
        async with HubClient(self.hub_address) as hub:
            async for event in hub.watch():
                if event.change is Change.JOINED:
                    self._deaths.joined(event.actor.actor_id)

    async def _hub_listens(self, child: Started) -> None:
        seconds = self._config.launch.start_seconds
        death = asyncio.create_task(child.wait())
        listening = asyncio.create_task(answers(self.hub_address))
        try:
            # A hub that dies at its start ends the run at once, instead of after the whole of launch.start_seconds.
            done, _ = await asyncio.wait({death, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            listening.cancel()
        # First: when both are done, the hub did listen, and keep_running restarts it.
        if listening in done:
            return
        if death in done:
            said = quoted(child.last_words())
            raise RunFailed(f"hub: {child.describe(death.result())} at start{said}\nlog: {child.log}")
        raise DeadlineExceeded(
            f"hub: does not listen at {self.hub_address} after {seconds:.0f} s (launch.start_seconds); see its log"
        )
