"""The stage of each lease that a worker works on: reported to the learner, and watched for lack of progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkProgress:
    """Progress of the work on one lease. Both numbers only grow."""

    tokens: int = 0
    """Tokens sampled so far, over all samples and turns."""
    steps: int = 0
    """Stages entered so far."""
    stage: str = ""
    """Present stage, e.g. ``"engine"``; for people."""


_STEP: ContextVar[Callable[[], None]] = ContextVar("step", default=lambda: None)


def moved() -> None:
    """Count a step of the lease that the running task works on; outside such a task, do nothing.

    Clients of verifiers and environments call it at every sign of progress, so they need no lease in their signatures.
    """
    _STEP.get()()


class Stages:
    """The stage of each lease in work. Used from one event loop."""

    def __init__(self) -> None:
        self._at: dict[str, tuple[str, int]] = {}

    @contextmanager
    def working_on(self, group_id: str) -> Iterator[None]:
        """Attribute ``moved`` calls of the block to this lease; forget the lease when the block ends."""
        # The same stage again: its number of steps grows, and that is progress.
        token = _STEP.set(lambda: self.enter(group_id, self.stage(group_id)))
        try:
            yield
        finally:
            _STEP.reset(token)
            self._at.pop(group_id, None)

    def enter(self, group_id: str, stage: str) -> None:
        """Record that the lease entered a stage, possibly the present one again."""
        self._at[group_id] = stage, self.steps(group_id) + 1

    def steps(self, group_id: str) -> int:
        """Stages that the lease has entered."""
        return self._at.get(group_id, ("", 0))[1]

    def stage(self, group_id: str) -> str:
        """The present stage of the lease; empty before its first."""
        return self._at.get(group_id, ("", 0))[0]
