"""The loop's waits: for a batch, and for the groups of an evaluation.

A wait ends the run only when nothing progressed for ``learner.max_wait_seconds``: no group was received and no worker
sampled a token or took a step. Groups that are received and dropped are progress of a kind: the first whole batch of
them is warned of at once, by reason; the run ends when for ``max_wait_seconds`` no others came and HOPELESS_BATCHES
of them were dropped.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.warner import Warner
from rlserve.records import RolloutGroup

POLL_SECONDS = 0.5
"""Between two looks at signals and progress; a full batch ends the wait at once."""
HOPELESS_BATCHES = 8
"""A policy may fail whole batches of hard tasks and recover; so many in a row without one group to train on do not."""
QUIET_SHARE = 0.2
"""Of ``max_wait_seconds``: after so long without progress there is a warning."""
EXPLAINED = {
    "zero_variance": "all samples of a task have the same reward",
    "no_verdict": "no verifier could judge",
    "stale": "sampled by weights that are too old",
    "returned": "workers could not finish their tasks",
    "expired": "workers did not finish within learner.lease_seconds",
    "empty": "nothing was sampled",
    "not_finite": "loss or gradient is not finite",
    "algorithm_failed": "the algorithm cannot prepare them",
}


@dataclass(slots=True)
class _Clock:
    """When the inbox's numbers moved last."""

    moved: float
    useful: float
    seen: object = None
    stale: int = 0
    """Groups dropped as stale before they count as lost."""
    kept: int = -1
    dropped: dict[str, int] = field(default_factory=dict)
    """Counts when the last useful group was received."""


class Waits:
    """Takes groups out of the inbox.

    Example, ``max_wait_seconds`` 100: after 20 s without progress a warning, after 100 s DeadlineExceeded; a token
    sampled anywhere starts both again.
    """

    def __init__(
        self,
        inbox: Inbox,
        config: LearnerConfig,
        *,
        warn: Warner,
        check: Callable[[], None],
        start_seconds: float = 0.0,
        starting: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``check`` is called in waits and may raise.

        Until the first worker joined, the limit is at least ``start_seconds``, and begins again while one of
        ``starting`` starts its engine, however long that takes.
        """
        self._starting = starting
        self._start_seconds = start_seconds
        self._joined = False
        self._inbox = inbox
        self._config = config
        self._warn = warn
        self._check = check
        self._clock = clock

    def batch(self) -> list[RolloutGroup]:
        """The next ``learner.groups_per_step`` groups. Raises DeadlineExceeded with what is missing and why."""
        size, state, warned = self._config.groups_per_step, self._start(), set[str]()
        while True:
            self._check()
            try:
                return self._inbox.queue.take(size, deadline_seconds=POLL_SECONDS)
            except DeadlineExceeded as error:
                self._look(state)
                self._warn_once(state, warned, str(error))
                self._end_if_hopeless(state, str(error))

    def measurement(self, count: int) -> tuple[list[RolloutGroup], str]:
        """The groups of an evaluation of ``count`` tasks, and what is missing, for people.

        Raises DeadlineExceeded when none was received.
        """
        state, warned = self._start(), set[str]()
        while True:
            self._check()
            try:
                return self._inbox.take_evaluation(count, deadline_seconds=POLL_SECONDS), ""
            except DeadlineExceeded as error:
                self._look(state)
                self._warn_once(state, warned, str(error))
                if self._clock() - state.moved > self._limit:
                    # 0: does not wait, and returns what has come.
                    groups = self._inbox.take_evaluation(0, deadline_seconds=0)
                    if groups:
                        return groups, str(error)
                    raise

    def _start(self) -> _Clock:
        now, counts = self._clock(), self._inbox.queue.counts()
        # What waits in the queue by now may grow stale in it: the price of sampling ahead, and no news.
        stale = counts.dropped.get("stale", 0) + counts.queued
        state = _Clock(moved=now, useful=now, stale=stale)
        self._look(state)
        return state

    @property
    def _limit(self) -> float:
        """Seconds without progress that end the run."""
        # Once is enough: a fleet that dies later gets no second time to start.
        self._joined = self._joined or bool(self._inbox.workers())
        least = 0.0 if self._joined else self._start_seconds
        return max(self._config.max_wait_seconds, least)

    def _look(self, state: _Clock) -> None:
        counts, now = self._inbox.queue.counts(), self._clock()
        evaluated = self._inbox.evaluation_counts()
        seen = (counts.received, evaluated.received, evaluated.abandoned)
        if seen != state.seen:
            state.seen, state.moved = seen, now
        state.moved = max(state.moved, now - self._inbox.seconds_without_progress())
        if not self._joined and self._starting():
            state.moved = now
        if counts.consumed + counts.queued > state.kept:
            state.kept, state.useful, state.dropped = counts.consumed + counts.queued, now, dict(counts.dropped)
            state.dropped["stale"] = max(state.stale, counts.dropped.get("stale", 0))

    def _lost(self, state: _Clock) -> dict[str, int]:
        """Groups dropped since the last useful one, by reason, the most frequent first."""
        now = self._inbox.queue.counts().dropped
        lost = {reason: count - state.dropped.get(reason, 0) for reason, count in now.items()}
        return {r: n for r, n in sorted(lost.items(), key=lambda item: -item[1]) if n > 0}

    def _warn_once(self, state: _Clock, warned: set[str], missing: str) -> None:
        lost = self._lost(state)
        if sum(lost.values()) >= self._config.groups_per_step and "lost" not in warned:
            warned.add("lost")
            self._warn(
                f"the last {sum(lost.values())} groups teach nothing: {reasons(lost)}; the run waits for others. Since "
                f"the last batch: {self._inbox.story()}",
                cause=f"lost: {', '.join(lost)}",
            )
        quiet = self._clock() - state.moved
        if quiet > QUIET_SHARE * self._limit and "quiet" not in warned:
            warned.add("quiet")
            self._warn(
                f"nothing came for {quiet:.0f} s: {missing}. A worker may be paused, stuck or busy; the run ends "
                f"when nothing comes for {self._limit:g} s (learner.max_wait_seconds)",
                cause="quiet",
            )

    def _end_if_hopeless(self, state: _Clock, missing: str) -> None:
        limit, lost = self._limit, self._lost(state)
        why = f"; since the last one that teaches, {sum(lost.values())} were dropped: {reasons(lost)}" if lost else ""
        if self._clock() - state.moved > limit:
            raise DeadlineExceeded(f"{missing}{why}. Nothing moved for {limit:g} s (learner.max_wait_seconds)")
        many = sum(lost.values()) >= HOPELESS_BATCHES * self._config.groups_per_step
        if many and self._clock() - state.useful > limit:
            raise DeadlineExceeded(
                f"no group that teaches came for {limit:g} s (learner.max_wait_seconds): of the last "
                f"{sum(lost.values())}, {reasons(lost)}. Look at rewards and samples: are tasks too hard, or verdicts "
                f"missing? Since the last batch: {self._inbox.story()}"
            )


def reasons(dropped: Mapping[str, int]) -> str:
    """Counts by reason, with their meanings."""
    meaning = {reason: f" ({text})" for reason, text in EXPLAINED.items()}
    return ", ".join(f"{count} {reason}{meaning.get(reason, '')}" for reason, count in dropped.items())
