"""The interface of a launcher: a plan of processes in, a run out, nothing left behind.

``rlserve.launch.plan`` says which processes a run has; a launcher only starts, watches, restarts and stops them. Every
launcher passes ``tests/contract/test_launchers.py``; how to add one: ``docs/extending.md``.
"""

from collections.abc import Sequence
from typing import Protocol

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import RlserveError
from rlserve.launch.plan import ProcessSpec


class RunFailed(RlserveError, RuntimeError):
    """A run cannot continue; the message names the process, its log and the way to continue."""


class Launcher(Protocol):
    """All processes of one run.

    Its life is ``start_hub``, ``run``, ``close``, and ``close`` is always called::

        launcher = LocalLauncher(config, paths, digest=digest)
        try:
            address = await launcher.start_hub()
            await launcher.run(plan_processes(config, paths.root, hub_address=address))
        finally:
            await launcher.close()
    """

    async def start_hub(self) -> str:
        """Start the hub and return the address at which it will listen, the same after each of its restarts.

        Raises RunFailed when something else listens there.
        """
        ...

    async def run(self, specs: Sequence[ProcessSpec]) -> None:
        """Start ``specs`` and return when the learner ended well, or early after ``request_stop``.

        * Output of each process is appended to ``logs/<name>.log`` of the run directory.
        * A ``restartable`` process that ends before the learner is started again, after pauses and as often as
          ``RestartPolicy`` allows; so is the hub. Each death and restart is an event.
        * Exit code 78 (the configuration cannot work) is never tried again.
        * A learner of which a rank was killed by a signal starts again from its last checkpoint, all ranks together,
          at most ``launch.learner_restarts`` times in ten minutes.
        * Any other process that is not ``restartable`` and fails ends the run, and so does a learner that fails by
          itself.

        Raises RunFailed with the last words of the process that ended the run, DeadlineExceeded when the hub does not
        come up within ``launch.start_seconds``.
        """
        ...

    def request_stop(self) -> None:
        """Make ``run`` return; ``close`` then stops the processes."""
        ...

    def hurry(self) -> None:
        """Kill every process at once."""
        ...

    async def close(self) -> list[str]:
        """Stop everything and everything that it started, with ``launch.stop_seconds`` of grace for each stage.

        The learner goes first (it saves a checkpoint), the hub last. Returns the names of those that had to be killed.
        """
        ...


class LauncherType(Protocol):
    """The class of a launcher, which ``[launch] type`` names."""

    def __call__(self, config: RunConfig, paths: RunPaths, *, digest: str) -> Launcher:
        """``digest`` is that of the ``config.toml`` that the processes must find in the run directory."""
        ...
