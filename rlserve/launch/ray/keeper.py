"""The Ray actor of one process: it starts the process on its node and tells how it ended.

The process dies with it: it asks the kernel for that (``rlserve.actors.process``), and Ray ends the actor with its
node, its launcher, and the cluster. It keeps no state that a restart would need: after its death the launcher makes
another one.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from rlserve.actors.process import PARENT_PID
from rlserve.launch.plan import LEARNER, PREPARE, ProcessSpec
from rlserve.launch.ports import free_port, on_host
from rlserve.launch.process import Child
from rlserve.rpc.thread import LoopThread

START_SECONDS = 60.0
"""To start a process, up to its first instruction; its imports and its model come after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a node must have for a run."""

    root: Path
    """The run directory."""
    token: str
    """What the launcher wrote into it."""
    directory: str
    """Where the launcher was started: relative paths of the configuration begin there."""
    launcher: str
    """The launcher's node."""
    several: bool
    """Whether the run's actors listen at their nodes' addresses, not on loopback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process will run."""

    host: str
    port: int
    """Free there, for what the process must bind."""
    problem: str = ""
    """Why it cannot run there; empty when it can."""


class Keeper:
    """Starts, signals and awaits one process. Its calls run in threads: ``wait`` blocks one."""

    def __init__(self, site: Site) -> None:
        self._site = site
        # The kernel ends the process when the thread that started it ends; this one lasts as long as the actor.
        self._loop = LoopThread("keeper")
        self._child: Child | None = None

    def place(self) -> Place:
        """Where this is."""
        host = str(ray.util.get_node_ip_address())
        return Place(host=host, port=free_port(host), problem=self._problem(host))

    def start(
        self, spec: ProcessSpec, log: Path, environment: Mapping[str, str], forwarded: Mapping[str, str], address: str
    ) -> tuple[int, int]:
        """Start the process; its id, and where its lines begin in the log.

        ``forwarded`` are variables for a node that has none of that name; ``address`` is where an actor of this kind
        listens as configured, empty for what is no actor.
        """
        if os.path.isdir(self._site.directory) and not os.environ.get("RAY_RUNTIME_ENV_CREATE_WORKING_DIR"):
            os.chdir(self._site.directory)
        own = {name: value for name, value in forwarded.items() if name not in os.environ}
        spec = replace(
            spec,
            # The same Python as this actor's: Ray may have made an environment for it.
            command=(sys.executable, *spec.command[1:], *self._listening(address)),
            environment={**spec.environment, **_gpus(spec)},
        )
        child = self._loop.run(
            Child.start(spec, log, {**own, **environment, PARENT_PID: str(os.getpid())}), START_SECONDS
        )
        self._child = child
        return child.pid, child.log_start

    def wait(self) -> int:
        """The exit status, once the process and what it started are gone."""
        assert self._child is not None
        status = self._loop.submit(self._child.wait()).result()
        self._child.kill()  # grandchildren in its group may have outlived it
        return status

    def stop(self, grace_seconds: float) -> bool:
        """SIGTERM, then after the grace SIGKILL to the process and its group; whether the grace was enough."""
        assert self._child is not None
        return self._loop.submit(self._child.stop(grace_seconds)).result()

    def kill(self) -> None:
        """SIGKILL to the process and its group."""
        if self._child is not None:
            self._child.kill()

    def _problem(self, host: str) -> str:
        site = self._site
        try:
            shared = token_file(site.root).read_text(encoding="ascii") == site.token
        except OSError:
            shared = False
        if not shared:
            return (
                f"directory: node {host} does not see the run directory {str(site.root)!r} of the launcher's node "
                f"{site.launcher}; nodes must share it: set --set directory=DIRECTORY to one on a shared file system"
            )
        if not site.several and host != site.launcher:
            return (
                f"launch.type: node {host} joined the cluster after the run had begun on {site.launcher} alone, where "
                "its actors listen on loopback; stop the run and continue it with --resume"
            )
        return ""

    def _listening(self, address: str) -> tuple[str, ...]:
        if not (address and self._site.several):
            return ()
        return ("--address", on_host(address, str(ray.util.get_node_ip_address())))


def token_file(root: Path) -> Path:
    """By which a node shows that it sees the launcher's run directory, not one of the same name."""
    return root / "shared.token"


def _gpus(spec: ProcessSpec) -> Mapping[str, str]:
    if spec.kind == PREPARE:  # it takes what the learner's node has, before the learner does
        return {}
    own = ",".join(map(str, ray.get_gpu_ids()))
    # A process sees its own GPUs alone, numbered from 0.
    return {"CUDA_VISIBLE_DEVICES": own, **({"LOCAL_RANK": "0"} if own and spec.kind == LEARNER else {})}
