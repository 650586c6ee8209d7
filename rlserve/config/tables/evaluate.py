"""``[evaluate]``: the measurement on held-out tasks."""

from pydantic import Field, model_validator

from rlserve.config.base import Section
from rlserve.nearest import nearest


class EvaluationSetConfig(Section):
    """Held-out tasks of one environment that are measured apart from the others."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """In metrics: ``evaluate/accuracy/NAME``."""
    environment: str
    """Name of an ``[[environments]]`` entry."""
    split: str = ""
    """Empty: the environment's ``eval_split``."""
    problems: int = Field(200, ge=1)
    """Tasks of the split that are measured."""
    samples: int | None = Field(None, ge=1)
    """Completions per task; unset: ``evaluate.samples``."""
    temperature: float | None = Field(None, ge=0)
    """Unset: ``evaluate.temperature``."""


class EvaluateConfig(Section):
    """Held-out measurement before, during and after training."""

    problems: int = Field(200, ge=0)
    """Held-out tasks of the mixture, in proportion to the environments' weights; 0: only ``sets``, or nothing."""
    samples: int = Field(1, ge=1)
    """Completions per task."""
    k: tuple[int, ...] = ()
    """For pass@k and maj@k: sizes from 2 to ``samples``; empty: ``samples`` alone."""
    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    sets: tuple[EvaluationSetConfig, ...] = ()
    """Further held-out sets, each with its own measures."""
    every_steps: int = Field(0, ge=0)
    """Steps between evaluations during training; 0: only before and after."""
    keep_best: str = ""
    """A measure, e.g. ``accuracy``, ``pass@8`` or ``reward_mean/NAME`` of a set or an environment: the checkpoint with
    its highest value is kept, and ``checkpoints/best`` leads to it. Empty: only the newest are kept."""
    patience: int = Field(0, ge=0)
    """End early after so many evaluations in a row without a higher value of ``keep_best``; 0: never."""
    from_training: bool = False
    """Draw from the training splits, to make files of samples; the accuracy is then not a held-out one."""
    keep: int = Field(24, ge=0)
    """Tasks of a measurement whose samples are written to ``samples.jsonl``."""

    @property
    def is_on(self) -> bool:
        """Whether anything is measured."""
        return bool(self.problems or self.sets)

    @property
    def most_samples(self) -> int:
        """Completions per task of the set that has the most."""
        return max([self.samples, *(s.samples or self.samples for s in self.sets)])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The k of pass@k and maj@k."""
        return self.k or tuple(sorted({n for n in (self.samples, *(s.samples for s in self.sets)) if n and n > 1}))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured."""
        several = sorted({n for n in (self.samples, *(s.samples for s in self.sets)) if n and n > 1})
        return (
            "accuracy",
            "reward_mean",
            *(f"avg@{n}" for n in several),
            *(f"{kind}@{k}" for k in self.sizes for kind in ("pass", "maj")),
        )

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluateConfig":
        for k in self.k:
            if not 2 <= k <= self.most_samples:
                raise ValueError(f"k: has {k}, but a task has {self.most_samples} samples; give sizes from 2 to that")
        names = [part.name for part in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sets: {twice[0]!r} is there twice; give each a name of its own")
        if self.patience and not self.keep_best:
            raise ValueError(
                f"patience: is {self.patience}, but keep_best names no measure; set it, e.g. to 'accuracy'"
            )
        measure = self.keep_best.partition("/")[0]
        if self.keep_best and measure not in self.measures:
            near = nearest(measure, self.measures)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"keep_best: is {self.keep_best!r}{hint} (measured: {', '.join(self.measures)})")
        if self.keep_best and not self.is_on:
            raise ValueError(f"keep_best: is {self.keep_best!r}, but problems is 0 and there are no sets; set either")
        return self
