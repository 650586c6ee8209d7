"""Time limits that contain one another: the outer one must be longer, or the inner one never reports its cause."""

from collections.abc import Iterator, Sequence

from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.config.tables.teacher import TeacherConfig

TURN_MARGIN_SECONDS = 5.0
"""A worker waits this much longer for a turn than the environment server's own limit, so that the server's message
arrives first."""


def wait_problems(
    learner: LearnerConfig, rollout: RolloutConfig, episodes: EpisodesConfig, teachers: Sequence[TeacherConfig]
) -> Iterator[str]:
    """Time limits within a lease that can outlast it, as messages "field: what it was; what to do"."""
    lease = learner.lease_seconds
    within = [
        ("rollout.task_seconds", rollout.task_seconds, 0.0),
        ("rollout.verify_seconds", rollout.verify_seconds, 0.0),
        ("episodes.turn_seconds", episodes.turn_seconds, TURN_MARGIN_SECONDS),
        *((f"teachers.score_seconds of {t.name!r}", t.score_seconds, 0.0) for t in teachers),
    ]
    for key, seconds, margin in within:
        # Equal is too short, too: both timers would end at once, and which one reports would be chance.
        if lease <= seconds + margin:
            more = f" and the {margin:g} s that a worker waits beyond it" if margin else ""
            yield (
                f"learner.lease_seconds: is {lease:g}, but {key} is {seconds:g}: a lease that stands still there would "
                f"expire before the cause could be reported; give it more than {key}{more}, or lower that"
            )
