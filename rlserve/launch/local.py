"""Runs a plan as local processes, restarts those that die, stops all of them at the end.

``run``            starts all actors beside the hub, which they dial until it listens; waits for: the learner's exit,
                   a stop request, a hub that does not come up, an actor that keeps dying, or one that exits because
                   the configuration cannot work. ``close`` then stops every process.
``_keep_running``  one task a process. waits for: its exit. unblocked by: the process or ``close``.
``close``          waits for: the children's exits, by stages. unblocked by: ``launch.stop_seconds`` for each stage,
                   or ``hurry``, which kills all at once.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.process import EXIT_CONFIG, PARENT_PID
from rlserve.config.digest import DIGEST
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, DeadlineExceeded
from rlserve.launch import silence
from rlserve.launch.base import RunFailed
from rlserve.launch.directory import full_disk
from rlserve.launch.plan import HUB, LEARNER, ProcessSpec, plan_hub
from rlserve.launch.ports import answers, is_taken, on_host, with_free_port
from rlserve.launch.process import Child, describe_exit
from rlserve.launch.restart_policy import RestartPolicy, StartFailures
from rlserve.launch.silence import Silences, Starts
from rlserve.observability.events import EventLog
from rlserve.records import Change

logger = logging.getLogger(__name__)

OVER_SECONDS = 60.0
"""Longest time from an actor's own end to the learner's at the end of a run: the learner still saves and measures."""
EARLY = "it ended as if the run were over, but the learner is still running"
RUN_DIRECTORY = "RLSERVE_RUN_DIRECTORY"
"""Environment variable of every process of a run, grandchildren included, by which they are found."""


class LocalLauncher:
    """All processes of one run on this machine: see :class:`rlserve.launch.base.Launcher`."""

    def __init__(self, config: RunConfig, paths: RunPaths, *, digest: str) -> None:
        """``digest`` is that of the ``config.toml`` that the actors must find. Raises ConfigError."""
        if config.launch.options:
            raise ConfigError(f"launch.options: is {dict(config.launch.options)}, but launcher 'local' takes none")
        self._config = config
        self._digest = digest
        self._paths = paths
        self._events = EventLog(paths.events)
        self._children: dict[str, Child] = {}
        self._died_at: dict[str, float] = {}
        self._came_up: set[str] = set()
        """Actors that have registered at least once."""
        self._stopping = asyncio.Event()
        self.hub_address = ""

    async def start_hub(self) -> str:
        # One port for the whole run: actors keep dialling it while a hub that died is started again.
        self.hub_address = with_free_port(on_host(self._config.hub.address, self._config.launch.host))
        # Else actors would register at a stranger, for example the hub of another run, while this one's fails to bind.
        if is_taken(self.hub_address):
            raise RunFailed(f"hub.address: {self.hub_address!r} is taken; stop what listens there, or take port 0")
        await self._start(plan_hub(self._paths.root, self.hub_address))
        return self.hub_address

    async def run(self, specs: Sequence[ProcessSpec]) -> None:
        hub = plan_hub(self._paths.root, self.hub_address)
        # All at once: actors import their libraries and dial until the hub listens, so that nothing waits for anything
        # else.
        tasks = [asyncio.create_task(self._keep_running(spec), name=spec.name) for spec in (hub, *specs)]
        stopped = asyncio.create_task(self._stopping.wait())
        # These two only observe. They are not among the pending tasks, so that no failure of theirs ends a run.
        watching = asyncio.create_task(self._note_recoveries())
        silences = asyncio.create_task(
            silence.watch(self.hub_address, self._living, self._warn, Silences(), self._note_start, Starts())
        )
        # Rank 0 alone: its exit is the end of training, the other ranks follow.
        learners = {task for task in tasks if task.get_name() == LEARNER}
        listening = asyncio.create_task(self._hub_listens(self._children[HUB]))
        pending = {*tasks, stopped, listening}
        try:
            while not (learners & {t for t in pending if t.done()}) and not stopped.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    # Raises the RunFailed of an actor that was given up, or of a hub that does not come up.
                    task.result()
                if done & learners:
                    return
        finally:
            every = (*tasks, stopped, watching, silences, listening)
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
        order = sorted(self._children.values(), key=lambda c: (c.spec.name == HUB, c.spec.kind != LEARNER))
        grace = self._config.launch.stop_seconds
        learners = [c for c in order if c.spec.kind == LEARNER]
        # Each stage has its own grace: the learner saves a checkpoint while workers still answer, and the hub is last
        # because the others unregister at it.
        others = [c for c in order if c.spec.kind not in (LEARNER, HUB)]
        killed: list[str] = []
        for batch in (learners, others, [c for c in order if c.spec.name == HUB]):
            obeyed = await asyncio.gather(*(child.stop(grace) for child in batch))
            killed += [child.spec.name for child, did in zip(batch, obeyed, strict=True) if not did]
        for name in killed:
            self._events.note("actor_killed", actor=name, seconds=grace)
        return killed

    async def _keep_running(self, spec: ProcessSpec) -> None:
        policy = RestartPolicy(
            backoff_seconds=self._config.launch.restart_backoff_seconds,
            max_restarts=self._config.launch.max_restarts,
        )
        failures = StartFailures()
        child = self._children.get(spec.name) or await self._start(spec)
        while True:
            status = await child.wait()
            child.kill()  # grandchildren in its group may have outlived it
            # A restartable actor ends with 0 only when it takes the run for over.
            if status == 0 and (not spec.restartable or await self._run_ends()):
                return
            # A process that a signal killed wrote nothing about it: its last lines would name a wrong cause.
            said = child.last_words() if status > 0 else EARLY if status == 0 else ""
            # A learner's restart needs --resume, which checks the store and the checkpoint first; a wrong configuration
            # fails again.
            if not spec.restartable or status == EXIT_CONFIG:
                self._ended_for_good(child, status, said)
            # Before the pause: the recovery that is recorded includes it.
            self._died_at[spec.name] = time.monotonic()
            # Asked at each death, also of actors that came up once, because it counts equal last words in a row.
            hopeless = failures.is_hopeless(said, came_up=spec.name in self._came_up)
            pause = None if hopeless else policy.pause_after_death(time.monotonic())
            self._note_death(child, status, said, restarts=pause is not None)
            if pause is None:
                raise RunFailed(self._gave_up(child, status, said, hopeless=hopeless))
            logger.info("%s: %s; restarting in %.1f s", spec.name, describe_exit(status), pause)
            await asyncio.sleep(pause)
            child = await self._start(spec)
            self._events.note("actor_restarted", actor=spec.name, pid=child.pid)

    async def _run_ends(self) -> bool:
        """Whether an actor that ended well was right: the learner ends soon after it.

        The actor may have received its goodbye from another process.
        """
        learners = [child for child in self._children.values() if child.spec.kind == LEARNER]
        ends = [asyncio.create_task(child.wait()) for child in learners]
        if ends:
            # wait(), unlike wait_for(), leaves the tasks running at the timeout and raises nothing.
            await asyncio.wait(ends, timeout=OVER_SECONDS)
        for task in ends:
            task.cancel()
        return not any(child.running for child in learners)

    def _living(self) -> Mapping[str, int]:
        return {name: child.pid for name, child in self._children.items() if child.running}

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self._events.note("warning", message=message, cause=message)

    def _note_start(self, name: str, doing: str, seconds: float) -> None:
        logger.info("%s starts: it %s, %.0f s so far", name, doing, seconds)
        self._events.note("actor_starts", actor=name, doing=doing, seconds=round(seconds))

    async def _note_recoveries(self) -> None:
        """Record the seconds from each death until the actor registered again."""
        async with HubClient(self.hub_address) as hub:
            async for event in hub.watch():
                died = self._died_at.get(event.actor.actor_id)
                if event.change is Change.JOINED:
                    self._came_up.add(event.actor.actor_id)
                # A new registration, not a new process, is the recovery: an actor serves once it has registered.
                if event.change is Change.JOINED and died is not None:
                    del self._died_at[event.actor.actor_id]
                    seconds = round(time.monotonic() - died, 2)
                    self._events.note("actor_recovered", actor=event.actor.actor_id, seconds=seconds)

    def _note_death(self, child: Child, status: int, said: str, *, restarts: bool) -> None:
        self._events.note(
            "actor_died",
            actor=child.spec.name,
            how=describe_exit(status),
            said=said,
            log=str(child.log),
            restarts=restarts,
        )

    def _ended_for_good(self, child: Child, status: int, said: str) -> None:
        """Raises RunFailed with its last words and the way to continue."""
        self._note_death(child, status, said, restarts=False)
        spec = child.spec
        said = "\n".join(filter(None, (said, full_disk(self._paths.root))))  # a full disk also cuts the log
        if status == EXIT_CONFIG:
            raise RunFailed(
                f"{spec.name}: {said}\nThis is a fault of the configuration: fix it, then start the run again. "
                f"log: {child.log}"
            )
        if spec.kind != LEARNER:
            way_on = "The start checkpoint was not made: fix the cause and start the run again with --overwrite"
        elif any(self._paths.checkpoints.glob("step-*")):
            way_on = f"Queue and last checkpoint are kept: continue with `rlserve run --resume {self._paths.root}`"
        else:
            way_on = f"No checkpoint was made yet: fix the cause, then `rlserve run --resume {self._paths.root}`"
        raise RunFailed(f"{spec.name}: {describe_exit(status)}{_quoted(said)}\n{way_on}. log: {child.log}")

    def _gave_up(self, child: Child, status: int, said: str, *, hopeless: bool) -> str:
        why = (
            "it never registered, and failed alike each time"
            if hopeless
            else f"it was restarted {self._config.launch.max_restarts} times already (launch.max_restarts)"
        )
        return f"{child.spec.name}: {describe_exit(status)}, and {why}{_quoted(said)}\nlog: {child.log}"

    async def _start(self, spec: ProcessSpec) -> Child:
        child = await Child.start(spec, self._log(spec), self._environment())
        self._children[spec.name] = child
        return child

    def _environment(self) -> Mapping[str, str]:
        return {
            # die_with_parent compares it: a launcher that died before the child asked for the death signal is noticed.
            PARENT_PID: str(os.getpid()),
            RUN_DIRECTORY: str(self._paths.root.resolve()),
            DIGEST: self._digest,
            # Else the last lines of a killed process stay in its buffer, and the log lacks the cause.
            "PYTHONUNBUFFERED": "1",
        }

    def _log(self, spec: ProcessSpec) -> Path:
        return self._paths.logs / f"{spec.name}.log"

    async def _hub_listens(self, child: Child) -> None:
        seconds = self._config.launch.start_seconds
        death = asyncio.create_task(child.wait())
        listening = asyncio.create_task(answers(self.hub_address))
        try:
            # A hub that dies at its start ends the run at once, instead of after the whole of launch.start_seconds.
            done, _ = await asyncio.wait({death, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            listening.cancel()
        # First: when both are done, the hub did listen, and _keep_running restarts it.
        if listening in done:
            return
        if death in done:
            said = _quoted(child.last_words())
            raise RunFailed(f"hub: {describe_exit(death.result())} at start{said}\nlog: {child.log}")
        raise DeadlineExceeded(
            f"hub: does not listen at {self.hub_address} after {seconds:.0f} s (launch.start_seconds); see its log"
        )


def _quoted(said: str) -> str:
    return f": {said}" if said else ""
