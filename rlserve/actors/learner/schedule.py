"""Learning rate by step: warm-up, then constant."""

from rlserve.config.tables.learner import LearnerConfig


def learning_rate(config: LearnerConfig, step: int) -> float:
    """Of the optimizer step that follows ``step`` finished ones: linear to ``lr`` over ``warmup_steps``."""
    if step >= config.warmup_steps:
        return config.lr
    return config.lr * (step + 1) / config.warmup_steps
