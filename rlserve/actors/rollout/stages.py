"""Where the leases of a worker stand: what is told to the learner, and watched for standing still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkProgress:
    """How far the work on one lease is. Both numbers only grow."""

    tokens: int = 0
    """Sampled so far, over all samples and turns."""
    steps: int = 0
    """Stages entered so far."""
    stage: str = ""
    """Where it stands, e.g. ``"engine"``; for people."""


_STEP: ContextVar[Callable[[], None]] = ContextVar("step", default=lambda: None)


def moved() -> None:
    """Whoever waits for others on behalf of a lease says that they moved; elsewhere it does nothing.

    The lease is that of the running task, so that clients of verifiers and environments need not know of leases.
    """
    _STEP.get()()


class Stages:
    """The stage of each lease that is worked on. For one event loop."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, int]] = {}

    @contextmanager
    def working_on(self, group_id: str) -> Iterator[None]:
        """What the block awaits is about this lease; forget it when the block ends."""
        token = _STEP.set(lambda: self.enter(group_id, self.stage(group_id)))
        try:
            yield
        finally:
            _STEP.reset(token)
            self._at.pop(group_id, None)

    def enter(self, group_id: str, stage: str) -> None:
        """The lease goes on to another stage, or the same once more."""
        self._at[group_id] = stage, self.steps(group_id) + 1

    def steps(self, group_id: str) -> int:
        """Stages that the lease has entered."""
        return self._at.get(group_id, ("", 0))[1]

    def stage(self, group_id: str) -> str:
        """Where the lease stands; empty before its first stage."""
        return self._at.get(group_id, ("", 0))[0]
