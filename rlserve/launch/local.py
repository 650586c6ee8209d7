"""Runs a plan as processes of this machine, children of the launcher."""

from rlserve.launch.plan import ProcessSpec
from rlserve.launch.ports import free_port
from rlserve.launch.supervision.started import Started
from rlserve.launch.supervision.supervisor import Supervisor

LOOPBACK = "127.0.0.1"


class LocalLauncher(Supervisor):
    """All processes of one run on this machine: see :class:`rlserve.launch.base.Launcher`."""

    async def _start(self, spec: ProcessSpec) -> Started:
        return await self._start_here(spec)

    async def _meeting_point(self, rank0: ProcessSpec) -> tuple[str, int]:
        # The ranks bind it only once they have imported torch: until then another process may take it.
        return LOOPBACK, free_port(LOOPBACK)
