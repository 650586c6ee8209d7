"""Two schedules by step: the learning rate, and when the sampler is due new weights."""

from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.sync import SyncConfig


def learning_rate(config: LearnerConfig, step: int) -> float:
    """Learning rate of the optimizer step after ``step`` finished ones: linear to ``lr`` over ``warmup_steps``."""
    if step >= config.warmup_steps:
        return config.lr
    return config.lr * (step + 1) / config.warmup_steps


def why_sync(config: SyncConfig, *, steps_since: int, mismatch_kl: float) -> str | None:
    """Whether the sampler is due new weights: ``"period"`` or ``"divergence"``, or None for not yet.

    ``steps_since`` optimizer steps were taken since the last sync; ``mismatch_kl`` is the last step's metric of
    that name. With period 0 and no bound on the divergence there is never a sync.
    """
    if config.every_steps and steps_since >= config.every_steps:
        return "period"
    if config.when_kl and steps_since > 0 and mismatch_kl > config.when_kl:
        return "divergence"
    return None
