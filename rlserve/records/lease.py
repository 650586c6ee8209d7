"""A task to work on: the learner's credit to a rollout worker."""

from dataclasses import dataclass, field

from rlserve.records.task import Purpose, Sampling

REPORT_SECONDS = 2.0
"""A worker tells the learner this often which of its leases have moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One group to make. The same lease always asks for the same task under the same group id."""

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
    """The lease goes to another worker when nothing moved for this long; 0 means never."""
    temperature: float | None = None
    """For this lease, whatever the task says; None leaves it to the task."""
    max_new_tokens: int | None = None
    """Likewise."""
    usual_sampling: Sampling = field(default_factory=Sampling)
    """Of the environment's spec: holds where the task says nothing."""
    nonce: str = field(default="", compare=False)
    """Proves that it was granted; new for each grant, so not part of what is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProgress:
    """How far a worker is with one lease. Both numbers only grow."""

    group_id: str
    nonce: str
    tokens: int = 0
    """Sampled so far, over all samples and turns."""
    steps: int = 0
    """Stages entered so far."""
    stage: str = ""
    """Where it stands, e.g. ``"engine"``; for people."""
