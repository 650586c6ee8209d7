"""Makes the tensors of the next batch in another thread, while the step runs.

Nothing is taken for it: the groups stay queued, and count as consumed only by the step that trains on them. When that
step takes its groups and they are the ones foreseen, their tensors are ready; otherwise they are made again.

One wait: ``settle``, for the thread to end. unblocked by: a thread that only computes. Called before anybody reads or
sets what the algorithm remembers, which ``prepare`` may change.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from rlserve.batching.collate import OptimizerBatch
from rlserve.records import RolloutGroup

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""Between two looks whether enough groups have come; short beside a step."""
Build = Callable[[Sequence[RolloutGroup], int], list[OptimizerBatch]]
"""From groups and the version of the weights that they meet to the batches of a step."""


class Remembers(Protocol):
    """What an algorithm keeps from batch to batch."""

    def algorithm_state(self) -> Mapping[str, float]:
        """The numbers."""
        ...

    def restore_algorithm(self, state: Mapping[str, float]) -> None:
        """Put them back."""
        ...


@dataclass(frozen=True, slots=True)
class _Ready:
    ids: Sequence[str]
    version: int
    batches: list[OptimizerBatch]


class NextBatch:
    """Used by the training thread.

    Example, weights 7 in training::

        with ahead.building(lambda: queue.foreseen(32), version=8):
            trainer.train(batches, ...)
        groups = queue.take(32, ...)
        batches = ahead.batches(groups, 8)      # those that were made, or others made now
    """

    def __init__(self, build: Build, memory: Remembers) -> None:
        self._build = build
        self._memory = memory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch")
        self._running: Future[_Ready | None] | None = None
        self._remembers = False
        """The algorithm's batches depend on one another: none is made before the one before it is trained on."""

    @contextmanager
    def building(self, foreseen: Callable[[], Sequence[RolloutGroup]], *, version: int) -> Iterator[None]:
        """While the block runs, wait for groups and make their batch; what has begun goes on after it."""
        self.settle()
        over = Event()
        if not self._remembers:
            self._running = self._thread.submit(self._make, foreseen, version, over)
        try:
            yield
        finally:
            over.set()

    def batches(self, groups: Sequence[RolloutGroup], version: int) -> list[OptimizerBatch]:
        """The batches of these groups. Raises what making them raises."""
        ready = self._running.result() if self._running is not None else None
        self.forget()
        if ready is not None and ready.version == version and list(ready.ids) == [g.group_id for g in groups]:
            return ready.batches
        return self._build(groups, version)

    def settle(self) -> None:
        """Return when the thread rests."""
        if self._running is not None:
            self._running.exception()

    def forget(self) -> None:
        """What was made ahead is of no use: settings changed."""
        self.settle()
        self._running = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)

    def _make(self, foreseen: Callable[[], Sequence[RolloutGroup]], version: int, over: Event) -> _Ready | None:
        while not (groups := foreseen()):
            if over.wait(LOOK_SECONDS):
                return None
        before = self._memory.algorithm_state()
        try:
            batches = self._build(groups, version)
        # The step makes it again, and there the error has its consequences.
        except Exception as error:
            logger.debug("the next batch could not be made ahead: %s", error)
            batches = None
        if self._memory.algorithm_state() != before:
            # The step in training may yet be dropped, and a checkpoint must hold what was before.
            self._memory.restore_algorithm(before)
            self._remembers = True
            return None
        return None if batches is None else _Ready([group.group_id for group in groups], version, batches)
