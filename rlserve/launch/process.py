"""One child process: own session, own log file, dies with the launcher, leaves nothing behind."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from rlserve.launch.plan import ProcessSpec

logger = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""Time that a process gets to be gone after SIGKILL."""


class Child:
    """A started process and its log."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self._process = process

    @classmethod
    async def start(cls, spec: ProcessSpec, log: Path, environment: Mapping[str, str]) -> "Child":
        """Start ``spec``; both outputs are appended to ``log``.

        The child is its own session, so that a Ctrl-C in the terminal reaches the launcher alone, which
        then stops its children in order. That it dies with a killed launcher is the child's own doing
        (``rlserve.actors.process``), for a parent-death signal must be asked for after exec.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab", buffering=0) as file:
            process = await _spawn(spec, file, {**os.environ, **environment, **spec.environment})
        return cls(spec, process)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True until it has exited."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Exit status; negative is the signal that killed it."""
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, then after the grace SIGKILL to the whole group."""
        if self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_seconds)
        self.kill()
        try:
            await asyncio.wait_for(self._process.wait(), KILL_SECONDS)
        except TimeoutError:
            logger.warning(
                "%s (pid %d): does not end %g s after SIGKILL: the kernel holds it, most likely on a disk or a device "
                "that does not answer; it is left behind",
                self.spec.name,
                self.pid,
                KILL_SECONDS,
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole process group, grandchildren included."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def _spawn(spec: ProcessSpec, log: BinaryIO, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *spec.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )


def describe_exit(status: int) -> str:
    """An exit status in words: ``"exit code 1"`` or ``"killed by SIGKILL"``."""
    if status >= 0:
        return f"exit code {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 8192, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-count:])
