"""``[evaluate]``: the measurement on held-out tasks."""

from pydantic import Field

from rlserve.config.base import Section


class EvaluateConfig(Section):
    """Held-out measurement before and after training."""

    problems: int = Field(200, ge=0)
    """Held-out tasks; 0 disables evaluation."""
    samples: int = Field(1, ge=1)
    """Completions per task."""
    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    every_steps: int = Field(0, ge=0)
    """Steps between evaluations during training; 0: only before and after."""
    from_training: bool = False
    """Draw from the training splits, to make files of samples; the accuracy is then not a held-out one."""
    keep: int = Field(24, ge=0)
    """Tasks of a measurement whose samples are written to ``samples.jsonl``."""
