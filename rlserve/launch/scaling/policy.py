"""When a pool gets a process more or one less: pure, with the clock passed in.

A signal must last before anything happens, a pool that was changed is left alone until the change shows, and growing
is quicker than shrinking: a process too many costs a machine, one too few the time of all others.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Signal(StrEnum):
    """What a look at a pool says."""

    MORE = "more"
    ENOUGH = "enough"
    FEWER = "fewer"


WAITING_MUCH, WAITING_LITTLE = 0.25, 0.05
"""Share of its time in which the learner waited for groups. Between them lies what a pipeline cannot avoid."""
QUEUED_MUCH, QUEUED_LITTLE = 4.0, 0.25
"""Requests that wait at a server, for each that it works on."""
GROW_LOOKS, SHRINK_LOOKS = 3, 12
"""Looks in a row with the same signal. A look at rollout is one optimizer step, at servers READ_SECONDS."""
SETTLE_SECONDS = 60.0
"""After a change, for a new process to start and for its work to show."""
SHARE = 4
"""A pool grows by a quarter of itself, at least by one, so that a large one does not grow one by one."""


@dataclass(slots=True)
class Autoscaler:
    """The state of one pool.

    Example with bounds 1 and 4: ``look(2, Signal.MORE, now)`` returns 2, 2, then 3, and 3 again until the minute is
    over.
    """

    lowest: int
    highest: int
    _last: Signal = Signal.ENOUGH
    _times: int = 0
    _changed: float = field(default=float("-inf"))

    def look(self, count: int, signal: Signal, now: float) -> int:
        """The number of processes that the pool should have, of which it has ``count``."""
        # Outside its bounds after a request by hand or a new configuration: back at once.
        inside = min(max(count, self.lowest), self.highest)
        if inside != count:
            return self._change(inside, now)
        self._times = self._times + 1 if signal is self._last else 1
        self._last = signal
        if now - self._changed < SETTLE_SECONDS:
            self._times = 0  # what is seen now is of before the change
            return count
        if signal is Signal.MORE and self._times >= GROW_LOOKS and count < self.highest:
            return self._change(min(count + max(1, count // SHARE), self.highest), now)
        if signal is Signal.FEWER and self._times >= SHRINK_LOOKS and count > self.lowest:
            return self._change(count - 1, now)
        return count

    def _change(self, count: int, now: float) -> int:
        self._changed, self._times = now, 0
        return count


def rollout_signal(*, wait_seconds: float, step_seconds: float, queued: int, groups_per_step: int) -> Signal:
    """Of one optimizer step: whether the learner waited for groups, or groups for the learner."""
    share = wait_seconds / max(wait_seconds + step_seconds, 1e-9)
    if share > WAITING_MUCH:
        return Signal.MORE
    # Not by the waiting alone: without a batch in the queue one worker less would make it wait.
    return Signal.FEWER if share < WAITING_LITTLE and queued >= groups_per_step else Signal.ENOUGH


def server_signal(*, queued: int, at_once: int) -> Signal:
    """Of all servers of a pool together, which work on ``at_once`` requests."""
    waiting = queued / max(at_once, 1)
    return Signal.MORE if waiting > QUEUED_MUCH else Signal.FEWER if waiting < QUEUED_LITTLE else Signal.ENOUGH
