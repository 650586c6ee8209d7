"""A lease: a task that the learner grants to a rollout worker."""

from dataclasses import dataclass, field

from rlserve.records.task import Purpose, Sampling

REPORT_SECONDS = 2.0
"""A worker reports the progress of its leases this often: far below a lease's limit, and little traffic."""
MAX_REASON_CHARACTERS = 500
"""Of the reason of a returned lease: room for a message and its place, not for a traceback."""

MAX_MORE_GROUPS = 63
"""Finished groups beside the first in one frame of the rollout stream: its cost is spread over enough by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One group to make. The same lease always stands for the same task and the same group id."""

    group_id: str
    environment: str
    split: str
    index: int
    """Position in the split."""
    seed: int
    """Seed of the task; sample i is drawn with ``seed + i``."""
    num_samples: int
    purpose: Purpose = Purpose.TRAIN
    limit_seconds: float = 0.0
    """The lease goes to another worker after this long without progress; 0 means never."""
    temperature: float | None = None
    """Overrides the task's; None leaves it to the task."""
    max_new_tokens: int | None = None
    """Overrides the task's; None leaves it to the task."""
    usual_sampling: Sampling = field(default_factory=Sampling)
    """From the environment's spec: used where the task sets nothing."""
    nonce: str = field(default="", compare=False)
    """Proves that the learner granted it. New for each grant, so it is no part of equality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProgress:
    """Progress of a worker on one lease. Both numbers only grow."""

    group_id: str
    nonce: str
    tokens: int = 0
    """Tokens sampled so far, over all samples and turns."""
    steps: int = 0
    """Stages entered so far."""
    stage: str = ""
    """Present stage, e.g. ``"engine"``; for people."""
