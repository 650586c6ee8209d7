"""A task to work on: the learner's credit to a rollout worker."""

from dataclasses import dataclass, field

from rlserve.records.task import Purpose, Sampling


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
    """The lease goes to another worker after this; 0 means never."""
    temperature: float | None = None
    """For this lease, whatever the task says; None leaves it to the task."""
    max_new_tokens: int | None = None
    """Likewise."""
    usual_sampling: Sampling = field(default_factory=Sampling)
    """Of the environment's spec: holds where the task says nothing."""
