"""One child process: a session and a log file of its own, killed with all its children."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from rlserve.launch.last_words import last_words
from rlserve.launch.plan import ProcessSpec

logger = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""Limit for a process to disappear after SIGKILL: the kernel frees gigabytes of memory first."""


class Child:
    """A started process and its log."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process, log: Path, log_start: int) -> None:
        self.spec = spec
        self.log = log
        self._process = process
        self.log_start = log_start
        """Byte of the log at which the lines of this process begin."""

    @classmethod
    async def start(cls, spec: ProcessSpec, log: Path, environment: Mapping[str, str]) -> "Child":
        """Start ``spec``; both outputs are appended to ``log``.

        The child has a session of its own, so that a Ctrl-C in the terminal reaches the launcher alone, which then
        stops its children in order. The child itself ends with a killed launcher (``rlserve.actors.process``), because
        a parent-death signal must be requested after exec.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        # Appended over restarts and resumes; the end of the file now is where this life's lines begin.
        with open(log, "ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            process = await _spawn(spec, file, {**os.environ, **environment, **spec.environment})
        return cls(spec, process, log, start)

    def describe(self, status: int) -> str:
        """How it ended, in words."""
        return describe_exit(status)

    def last_words(self) -> str:
        """The error that it ended with, from its log; empty when it logged nothing."""
        return last_words(self.log, self.log_start)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True until it exits."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Exit status; negative is the signal that killed it."""
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> bool:
        """SIGTERM, then after the grace SIGKILL to the whole group; returns whether the grace was enough."""
        obeyed = True
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), grace_seconds)
            except TimeoutError:
                obeyed = False
        # Also after an exit in time: its children, such as vLLM's engine core, are in the group and may still run.
        self.kill()
        try:
            await asyncio.wait_for(self._process.wait(), KILL_SECONDS)
        except TimeoutError:
            logger.warning(
                "%s (pid %d): still exists %g s after SIGKILL: the kernel holds it, most likely on a disk or a device "
                "that does not answer; it is left behind",
                self.spec.name,
                self.pid,
                KILL_SECONDS,
            )
        return obeyed

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
        # A child that inherits the terminal could take the user's keys.
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        # The process leads a group of its own, which kill() addresses by its pid.
        start_new_session=True,
    )


def describe_exit(status: int) -> str:
    """An exit status in words: ``"exit code 1"`` or ``"killed by SIGKILL"``."""
    if status >= 0:
        return f"exit code {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"
