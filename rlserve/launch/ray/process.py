"""A process under its keeper, as the supervisor sees it.

``wait``  waits for: the keeper's answer. unblocked by: the end of the process, of the keeper, or of its node.
"""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from rlserve.launch.last_words import last_words
from rlserve.launch.plan import ProcessSpec
from rlserve.launch.process import KILL_SECONDS, describe_exit

logger = logging.getLogger(__name__)

GONE = RayError
"""What a call to a keeper raises that is no more."""
LOST = -signal.SIGKILL
"""Status of a process whose keeper is gone: the kernel killed it with its keeper, or the node is gone as a whole."""
ANSWER_SECONDS = 10.0
"""For the answer of a keeper, beyond the time of what it was asked; calls on a busy machine take seconds."""
RETRY_SECONDS = 1.0
"""Before a keeper that could not be reached is asked again; Ray says when it is dead."""


class RayProcess:
    """A started process on some node."""

    def __init__(self, spec: ProcessSpec, log: Path, log_start: int, keeper: Any, *, pid: int, host: str) -> None:
        self.spec = spec
        self.log = log
        self._log_start = log_start
        self._keeper = keeper
        self._pid = pid
        self._host = host
        self._lost = self._stopping = False
        self._end = asyncio.create_task(self._ended())

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def running(self) -> bool:
        return not self._end.done()

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    async def stop(self, grace_seconds: float) -> bool:
        if not self.running:
            return True
        self._stopping = True  # the keeper must live to answer
        try:
            async with asyncio.timeout(grace_seconds + KILL_SECONDS + ANSWER_SECONDS):
                return bool(await self._keeper.stop.remote(grace_seconds))
        except GONE:
            return True  # it died with its keeper meanwhile
        except TimeoutError:
            logger.warning("%s (pid %d on %s): its keeper does not answer", self.spec.name, self.pid, self._host)
            return False
        finally:
            ray.kill(self._keeper)  # the process, if it lives, dies with it

    def kill(self) -> None:
        if self.running:
            self._keeper.kill.remote()

    def last_words(self) -> str:
        return last_words(self.log, self._log_start)

    def describe(self, status: int) -> str:
        return f"lost with its Ray actor on node {self._host}" if self._lost else describe_exit(status)

    async def _ended(self) -> int:
        while True:
            try:
                status = int(await self._keeper.wait.remote())
            except ActorUnavailableError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except RayError as error:
                logger.warning("%s: %s", self.spec.name, str(error).strip().splitlines()[-1])
                self._lost = True
                status = LOST
            if not self._stopping:
                # Its share of the node is needed by the process that takes its place.
                ray.kill(self._keeper)
            return status
