"""Time limits that contain one another: the outer one must be longer, or the inner one never reports its cause."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlserve.config.run import RunConfig

TURN_MARGIN_SECONDS = 5.0
"""A worker waits this much longer for a turn than the environment server's own limit, so that the server's message
arrives first."""


def wait_problems(config: "RunConfig") -> Iterator[str]:
    """Time limits within a lease that can outlast it, as messages "field: what it was; what to do"."""
    lease = config.learner.lease_seconds
    within = [
        ("rollout.task_seconds", config.rollout.task_seconds, 0.0),
        ("rollout.verify_seconds", config.rollout.verify_seconds, 0.0),
        ("episodes.turn_seconds", config.episodes.turn_seconds, TURN_MARGIN_SECONDS),
        *((f"teachers.score_seconds of {t.name!r}", t.score_seconds, 0.0) for t in config.teachers),
    ]
    for key, seconds, margin in within:
        if lease <= seconds + margin:
            more = f" and the {margin:g} s that a worker waits beyond it" if margin else ""
            yield (
                f"learner.lease_seconds: is {lease:g}, but {key} is {seconds:g}: a lease that stands still there would "
                f"expire before the cause could be reported; give it more than {key}{more}, or lower that"
            )
