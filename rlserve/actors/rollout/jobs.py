"""Work in a thread of vLLM's worker, so that its engine steps on; asked about from the other process."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypedDict, TypeVar

T = TypeVar("T")


class JobState(TypedDict):
    """How a job goes, as plain values."""

    version: int
    done: bool
    kind: str
    """Name of the exception's class; empty when there was none."""
    error: str
    seconds: float


class Job(Generic[T]):
    """One piece of work about one version of the weights, begun at construction."""

    def __init__(self, version: int, work: Callable[[], T]) -> None:
        self.version = version
        self.result: T | None = None
        """None while it runs, and when it failed."""
        self._kind = self._error = ""
        self._seconds = 0.0
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"rlserve-weights-{version}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self.result = self._work()
        except Exception as error:  # told to whoever asks, in another process
            self._kind, self._error = type(error).__name__, str(error)
        self._seconds = time.monotonic() - started

    @property
    def is_done(self) -> bool:
        """True once it returned or raised."""
        return not self._thread.is_alive()

    def state(self) -> JobState:
        """How it goes."""
        return JobState(
            version=self.version, done=self.is_done, kind=self._kind, error=self._error, seconds=self._seconds
        )


def state_of(job: "Job[Any] | None") -> dict[str, Any]:
    """The state of a job with its result, if that is text. Raises RuntimeError when there is no job."""
    if job is None:
        raise RuntimeError("no such work was begun")
    return {**job.state(), "result": job.result if job.is_done and isinstance(job.result, str) else ""}
