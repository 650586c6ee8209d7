"""The death of a process: an event of the run, and the error that ends the run when nothing else helps."""

import time

from rlserve.actors.process import EXIT_CONFIG
from rlserve.config.paths import RunPaths
from rlserve.launch.base import RunFailed
from rlserve.launch.directory import full_disk
from rlserve.launch.plan import LEARNER
from rlserve.launch.supervision.started import Started
from rlserve.observability.events import EventLog


class Deaths:
    """Records deaths and recoveries of one run."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._events = EventLog(paths.events)
        self._died_at: dict[str, float] = {}
        self.came_up: set[str] = set()
        """Actors that have registered at least once."""

    def note(self, child: Started, status: int, said: str, *, restarts: bool) -> None:
        """A process died; the time until it registers again begins."""
        self._died_at[child.spec.name] = time.monotonic()
        self._events.note(
            "actor_died",
            actor=child.spec.name,
            how=child.describe(status),
            said=said,
            log=str(child.log),
            restarts=restarts,
        )

    def restarted(self, child: Started) -> None:
        """A process that died was started again."""
        self._events.note("actor_restarted", actor=child.spec.name, pid=child.pid)

    def joined(self, name: str) -> None:
        """An actor registered. A new registration, not a new process, is the recovery: only now does it serve."""
        self.came_up.add(name)
        died = self._died_at.pop(name, None)
        if died is not None:
            self._events.note("actor_recovered", actor=name, seconds=round(time.monotonic() - died, 2))

    def ended_for_good(self, child: Started, status: int, said: str) -> RunFailed:
        """The error of a process that is not started again, with its last words and the way to continue."""
        self.note(child, status, said, restarts=False)
        spec = child.spec
        said = "\n".join(filter(None, (said, full_disk(self._paths.root))))  # a full disk also cuts the log
        if status == EXIT_CONFIG:
            return RunFailed(
                f"{spec.name}: {said}\nThis is a fault of the configuration: fix it, then start the run again. "
                f"log: {child.log}"
            )
        if spec.kind != LEARNER:
            way_on = "The start checkpoint was not made: fix the cause and start the run again with --overwrite"
        elif any(self._paths.checkpoints.glob("step-*")):
            way_on = f"Queue and last checkpoint are kept: continue with `rlserve run --resume {self._paths.root}`"
        else:
            way_on = f"No checkpoint was made yet: fix the cause, then `rlserve run --resume {self._paths.root}`"
        return RunFailed(f"{spec.name}: {child.describe(status)}{quoted(said)}\n{way_on}. log: {child.log}")


def quoted(said: str) -> str:
    """Last words behind what they explain."""
    return f": {said}" if said else ""
