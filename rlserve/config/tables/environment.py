"""``[[environments]]``: one environment of the mixture; ``reward``: functions that reward its tasks."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rlserve import references
from rlserve.config.base import Section
from rlserve.plugins import HELD_OUT_SPLITS, INSTANCE

StopText = Annotated[str, Field(min_length=1, max_length=256)]


class RewardConfig(Section):
    """A function of the user's that rewards completions, called as TRL calls its own."""

    function: str
    """``"FILE.py:NAME"``, relative to the configuration file, or ``"module:NAME"``. It is called with ``prompts``,
    ``completions`` and the columns of the task, each a list, and returns a number a completion; ``async`` ones run many
    calls at once."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Factor of its reward in the sum of all functions."""

    @field_validator("function")
    @classmethod
    def _refers(cls, value: str) -> str:
        if not references.is_reference(value):
            raise ValueError(f"function: is {value!r}; give FILE.py:NAME, e.g. my_reward.py:digits")
        return value


def _listed(value: Any) -> Any:
    """One function, or several, each a reference or a table."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [{"function": one} if isinstance(one, str) else one for one in several]


Rewards = Annotated[tuple[RewardConfig, ...], BeforeValidator(_listed)]
"""Of a key ``reward``: ``"my.py:f"``, a list of such, or tables with weights."""


class TaskSamplingConfig(Section):
    """Sampling of an environment's tasks, where a task sets none itself; unset values are those of ``[rollout]``."""

    temperature: float | None = Field(None, gt=0)
    """Sampling temperature."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Length limit of a completion, or of all turns of an episode together."""
    stop: tuple[StopText, ...] = Field((), max_length=64)
    """Texts that end a completion, or a turn; their tokens are kept."""


class EnvironmentConfig(Section):
    """One environment of the mixture."""

    name: str = Field(min_length=1)
    """Name in the mixture."""
    plugin: str = ""
    """Registered plug-in, or a class in a file of yours (``"my_env.py:Env"``); empty: ``name``. One plug-in can appear
    several times under different names."""
    reward: Rewards = ()
    """Functions of yours that reward its tasks in place of their verifier, e.g. ``"my_reward.py:digits"``; none: those
    of the run's ``reward``."""
    weight: float = Field(1.0, ge=0)
    """Share in the mixture, relative to the others."""
    eval_weight: float | None = Field(None, ge=0)
    """Share in the held-out measurement; unset: ``weight``. 0 for tasks that are only trained on, such as pairs."""
    split: str = "train"
    """Split that training draws from."""
    eval_split: str = "test"
    """Split that evaluation draws from."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the environment's constructor, e.g. the path of a task file."""
    sampling: TaskSamplingConfig = TaskSamplingConfig()
    """Sampling of its tasks, e.g. ``{ max_new_tokens = 256 }``."""
    levels: tuple[str, ...] = ()
    """Splits from easy to hard: training begins with the first, instead of ``split``, and moves on when it passes."""
    raise_at: float = Field(0.8, gt=0, le=1)
    """Pass rate at which the next level begins."""
    window: int = Field(64, ge=1)
    """Groups of the current level over which the pass rate is measured."""

    @property
    def share_in_evaluation(self) -> float:
        """Weight in the held-out measurement."""
        return self.weight if self.eval_weight is None else self.eval_weight

    @property
    def verifier(self) -> str:
        """The verifier that calls the functions of ``reward``; empty without any."""
        return f"function{INSTANCE}{self.name}" if self.reward else ""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_class(cls, values: Any) -> Any:
        # The name goes into metrics and messages, where a path would be a nuisance.
        if isinstance(values, dict) and isinstance(name := values.get("name"), str) and references.is_reference(name):
            return {**values, "plugin": values.get("plugin") or name, "name": references.name_in(name)}
        return values

    @model_validator(mode="before")
    @classmethod
    def _begin_at_the_first_level(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("levels"):
            # to_toml writes both keys, so that equal ones must load back.
            if values.get("split", values["levels"][0]) != values["levels"][0]:
                raise ValueError(f"split: is {values['split']!r}, and levels are given; leave one of the two out")
            # Whatever reads `split` without knowing of levels sees where training begins.
            return {**values, "split": values["levels"][0]}
        return values

    @model_validator(mode="after")
    def _held_out(self) -> "EnvironmentConfig":
        # Training on what is measured would make every held-out number worthless.
        for split in self.levels or (self.split,):
            if split in HELD_OUT_SPLITS:
                held_out = ", ".join(sorted(HELD_OUT_SPLITS))
                raise ValueError(f"split: is {split!r}; training never draws from {held_out}: give another split")
        if self.eval_split in (self.levels or (self.split,)):
            raise ValueError(f"eval_split: is {self.eval_split!r}, which training draws from; give a split of its own")
        return self
