"""A process as the supervisor sees it, wherever it runs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from rlserve.launch.plan import ProcessSpec


class Started(Protocol):
    """A started process."""

    spec: ProcessSpec
    log: Path

    @property
    def pid(self) -> int:
        """Process id on its host."""
        ...

    @property
    def running(self) -> bool:
        """True until its end is known here."""
        ...

    async def wait(self) -> int:
        """Exit status; negative is the signal that killed it."""
        ...

    async def stop(self, grace_seconds: float) -> bool:
        """SIGTERM, then after the grace SIGKILL to it and its children; returns whether the grace was enough."""
        ...

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        ...

    def last_words(self) -> str:
        """The error that it ended with, from its log; empty when it logged nothing."""
        ...

    def describe(self, status: int) -> str:
        """How it ended, in words."""
        ...


Start = Callable[[ProcessSpec], Awaitable[Started]]
"""Starts a process, or starts it again."""
