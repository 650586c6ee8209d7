"""Runs a plan on a Ray cluster: each process under a keeper, a Ray actor on the node where it was placed.

The hub is a child of the launcher, whose node it shares: the run ends with the launcher in any case. Learner ranks
and rollout workers are in placement groups. When a node is lost, Ray fills their bundles on what is left, and the
supervisor starts the processes again there, the learner from its last checkpoint.
"""

import asyncio
import importlib.util
import logging
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

from rlserve.actors.process import PARENT_PID
from rlserve.config.digest import DIGEST
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.base import RunFailed
from rlserve.launch.plan import HUB, LEARNER, PREPARE, ProcessSpec, configured_address
from rlserve.launch.ray.needs import Resources, check_needs, resources_of
from rlserve.launch.supervision.started import Started
from rlserve.launch.supervision.supervisor import RUN_DIRECTORY, Supervisor
from rlserve.rpc.tls import TlsFiles, check_bind, insecure_allowed

logger = logging.getLogger(__name__)

THREADS = 8
"""Of a keeper: one waits for the process, the others answer."""
LOOK_SECONDS = 1.0
"""Between two looks at a placement, and before a keeper whose node vanished is placed again."""
TELL_SECONDS = 20.0
"""A placement that takes longer is a warning: Ray alone would wait in silence."""
OWN = (PARENT_PID, RUN_DIRECTORY, DIGEST)
"""Variables that each process gets a value of its own for."""


def check_ray(config: RunConfig) -> None:
    """Raise ConfigError when the launcher cannot work; nothing of Ray is imported."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("launch.type: is 'ray', which is not installed; pip install 'rlserve[ray]'")
    if config.launch.host:
        raise ConfigError(
            f"launch.host: is {config.launch.host!r}, but each actor listens at its node's; leave it empty"
        )
    check_needs(config)


class RayLauncher(Supervisor):
    """All processes of one run on a Ray cluster: see :class:`rlserve.launch.base.Launcher`."""

    def __init__(self, config: RunConfig, paths: RunPaths, *, digest: str) -> None:
        """Raises ConfigError."""
        check_ray(config)
        super().__init__(config, RunPaths(paths.root.resolve()), digest=digest)
        # Here: a host without Ray must be able to import this module.
        from rlserve.launch.ray import cluster, keeper, process

        self._cluster, self._keeper, self._process = cluster, keeper, process
        self._places = cluster.Places()
        self._placed: dict[str, tuple[Any, Any]] = {}
        """Keepers that have a place and no process yet, with that place."""
        self._connected = False
        self._gpus = 0.0
        self._site: Any = None

    @property
    def _hub_host(self) -> str:
        return str(self._site.launcher) if self._site.several else ""

    async def start_hub(self) -> str:
        cpus = self._config.launch.ray.cpus
        counts = {"learner": self._config.learner.ranks, "rollout": self._config.rollout.workers}
        wanted = sum(cpus.get(kind, 0.0) * count for kind, count in counts.items())
        # In a thread: it takes seconds, and in the main one Ray would take over SIGTERM.
        self._connected = await asyncio.to_thread(self._cluster.connect, self._config.launch.ray, cpus=wanted)
        host = self._cluster.own_host()
        several = self._cluster.hosts() != {host}
        if several:
            check_bind(f"{host}:0", tls=TlsFiles.from_environment(), insecure=insecure_allowed())
        token = uuid.uuid4().hex
        self._keeper.token_file(self._paths.root).write_text(token, encoding="ascii")
        self._site = self._keeper.Site(
            root=self._paths.root, token=token, directory=os.getcwd(), launcher=host, several=several
        )
        self._gpus = self._cluster.gpus()
        return await super().start_hub()

    async def run(self, specs: Sequence[ProcessSpec]) -> None:
        for kind in self._cluster.STRATEGIES:
            await self._reserve([spec for spec in specs if spec.kind == kind])
        if not self._stopping.is_set():
            await super().run(specs)

    async def close(self) -> list[str]:
        try:
            return await super().close()
        finally:
            self._keeper.token_file(self._paths.root).unlink(missing_ok=True)
            await asyncio.to_thread(self._disconnect)

    async def _make_room(self, specs: Sequence[ProcessSpec]) -> None:
        try:
            await self._reserve(specs)
        except RunFailed:
            for spec in specs:
                self._left(spec)
            raise

    def _left(self, spec: ProcessSpec) -> None:
        self._places.release(spec.kind, spec.name)

    async def _reserve(self, specs: Sequence[ProcessSpec]) -> None:
        """Reserve room for processes of one kind. Raises RunFailed when the cluster has none in time."""
        if not specs or specs[0].kind not in self._cluster.STRATEGIES:
            return
        resources = self._resources(specs[0])
        group = self._places.reserve(specs[0].kind, [spec.name for spec in specs], resources)
        waiting = _Patience(f"{len(specs)} x {resources} for {specs[0].kind}", self._config, self._cluster, self._warn)
        # A thread for a second at a time, so that a stop is heard.
        while group is not None and not await asyncio.to_thread(group.wait, LOOK_SECONDS):
            if self._stopping.is_set():
                return
            waiting.look()

    def _resources(self, spec: ProcessSpec) -> Resources:
        return resources_of(spec, self._config, cluster_gpus=self._gpus)

    async def _start(self, spec: ProcessSpec) -> Started:
        if spec.name == HUB:
            return await self._start_here(spec)
        log = self._paths.logs / f"{spec.name}.log"
        waiting = _Patience(f"{self._resources(spec)} for {spec.name}", self._config, self._cluster, self._warn)
        while True:
            placed = self._placed.pop(spec.name) if spec.name in self._placed else await self._place(spec, waiting)
            keeper, place = placed
            variables = self._environment(), _forwarded()
            try:
                pid, start = await keeper.start.remote(spec, log, *variables, configured_address(self._config, spec))
            except self._process.GONE as error:
                # Its node vanished after it was placed.
                waiting.look(error)
                await asyncio.sleep(LOOK_SECONDS)
                continue
            return self._process.RayProcess(spec, log, start, keeper, pid=pid, host=place.host)

    async def _meeting_point(self, rank0: ProcessSpec) -> tuple[str, int]:
        waiting = _Patience(f"{self._resources(rank0)} for {rank0.name}", self._config, self._cluster, self._warn)
        keeper, place = await self._place(rank0, waiting)
        self._placed[rank0.name] = keeper, place
        return (place.host if self._site.several else "127.0.0.1"), place.port

    async def _place(self, spec: ProcessSpec, waiting: "_Patience") -> tuple[Any, Any]:
        """A keeper on a node that has room for the process. Raises RunFailed when none has in time."""
        while True:
            keeper = self._hire(spec)
            asked = asyncio.ensure_future(_result(keeper.place.remote()))
            try:
                while not (await asyncio.wait({asked}, timeout=LOOK_SECONDS))[0]:
                    waiting.look()
                place = asked.result()
            except self._process.GONE as error:
                # The bundle was still on a node that is gone: Ray places it again.
                waiting.look(error)
                await asyncio.sleep(LOOK_SECONDS)
                continue
            finally:
                asked.cancel()
            if place.problem:
                raise RunFailed(place.problem)
            return keeper, place

    def _hire(self, spec: ProcessSpec) -> Any:
        import ray

        # The process that makes the start checkpoint takes the learner's place, before the learner needs it.
        prepares = spec.kind == PREPARE
        resources = Resources(0, 0) if prepares else self._resources(spec)
        kind, name = (LEARNER, LEARNER) if prepares else (spec.kind, spec.name)
        options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_concurrency": THREADS,
            "max_restarts": 0,  # the supervisor restarts, after a pause, a limited number of times
            "scheduling_strategy": self._places.strategy(kind, name),
        }
        return ray.remote(self._keeper.Keeper).options(**options).remote(self._site)

    def _disconnect(self) -> None:
        import ray

        if ray.is_initialized():
            self._places.close()
            if self._connected:
                ray.shutdown()


class _Patience:
    """Waits for room in the cluster: tells of it once, and gives up after ``launch.ray.wait_seconds``."""

    def __init__(self, what: str, config: RunConfig, cluster: Any, warn: Any) -> None:
        self._what, self._cluster, self._warn = what, cluster, warn
        self._limit = config.launch.ray.wait_seconds
        self._since = time.monotonic()
        self._told = False

    def look(self, error: Exception | None = None) -> None:
        """Raises RunFailed at the limit."""
        waited = time.monotonic() - self._since
        if waited > self._limit:
            why = f" ({str(error).strip().splitlines()[-1]})" if error else ""
            raise RunFailed(
                f"launch.ray: the cluster had no room for {self._what} within {self._limit:g} s "
                f"(launch.ray.wait_seconds); free are {self._cluster.free()}{why}. Add nodes, or lower "
                "launch.ray.cpus, learner.ranks or rollout.workers"
            )
        if waited > TELL_SECONDS and not self._told:
            self._told = True
            self._warn(f"launch.ray: waits for room for {self._what}; free are {self._cluster.free()}")


async def _result(reference: Any) -> Any:
    return await reference


def _forwarded() -> dict[str, str]:
    """What the user set for rlserve where the run was started, such as RLSERVE_INSECURE."""
    return {name: value for name, value in os.environ.items() if name.startswith("RLSERVE_") and name not in OWN}
