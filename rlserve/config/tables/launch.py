"""``[launch]``: how the launcher starts, restarts and stops the processes of a run."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from rlserve.config.base import Section

GpuShare = PositiveInt | Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, max_length=1024)]


class LaunchConfig(Section):
    """How the launcher treats its processes."""

    type: str = "local"
    """Registered launcher: ``local`` (processes on this machine), or one of an installed package."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Read by a launcher of an installed package; ``local`` takes none."""
    host: str = ""
    """Name or IP of this machine at which all of its actors listen, so that other hosts reach them; an actor whose
    ``address`` is configured beyond this machine keeps that. Empty: this machine alone."""
    start_seconds: float = Field(180.0, gt=0)
    """Limit for an actor to serve, or to announce that it starts. A start that makes progress has no limit."""
    prepare_seconds: float = Field(86400.0, gt=0)
    """Limit for [pretrain] and [sft] to make the start checkpoint."""
    stop_seconds: float = Field(20.0, gt=0)
    """Grace between SIGTERM and SIGKILL."""
    restart_backoff_seconds: float = Field(0.5, gt=0)
    """First pause before a restart; doubles each time."""
    max_restarts: int = Field(5, ge=0)
    """Restarts of one actor within ten minutes; one more death ends the run."""
    report_every_steps: int = Field(100, ge=0)
    """Optimizer steps between two writes of ``report.html`` during the run; 0: only at its end."""
    cores: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Processor cores by kind of actor, e.g. ``{ learner = [0], rollout = [1] }``; others run anywhere."""
    gpus: dict[Literal["learner", "rollout", "teacher"], GpuShare] = Field(default_factory=dict)
    """GPUs by role, as numbers or as a count, e.g. ``{ learner = [0, 1], rollout = 2 }``. Empty: each learner rank,
    each part of a tensor-parallel rollout worker and each teacher server gets one of its own, in this order; a single
    GPU is shared by all."""

    @model_validator(mode="after")
    def _grace_is_short(self) -> "LaunchConfig":
        if self.stop_seconds > 600:
            raise ValueError(f"launch.stop_seconds: is {self.stop_seconds}; at most 600")
        for kind, cores in self.cores.items():
            # Only actors take --cores; the process that prepares is not an actor.
            if kind not in ("hub", "environment", "verifier", "teacher", "learner", "rollout"):
                raise ValueError(f"launch.cores: names {kind!r}, not a kind of actor; see `rlserve serve --help`")
            if not cores or min(cores) < 0:
                raise ValueError(f"launch.cores.{kind}: is {list(cores)}; give core numbers from 0")
        return self
