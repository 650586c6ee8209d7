"""``[launch]``: how the launcher starts, restarts and stops the processes of a run."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rlserve.config.base import Section

GpuShare = PositiveInt | Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, max_length=1024)]


KINDS = ("hub", "environment", "verifier", "teacher", "learner", "rollout")


class RayConfig(Section):
    """Where and how ``type = "ray"`` places the processes."""

    address: str = ""
    """Head of the cluster, HOST:PORT; ``local`` starts one of the run's own. Empty: that of RAY_ADDRESS, else the one
    that runs on this machine, else one of the run's own."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's description of the environment of the processes, e.g. ``{ working_dir = "." }``; passed on as it is."""
    cpus: dict[str, NonNegativeFloat] = Field(default={"learner": 1.0, "rollout": 1.0})
    """Cores that Ray reserves for a process, by kind of actor; kinds left out run without a share of their own."""
    wait_seconds: float = Field(300.0, gt=0)
    """Limit for the cluster to have room for a process, at the start and after a node was lost; then the run ends."""


class Bounds(Section):
    """Between how many processes a pool is kept by what is measured."""

    min: int = Field(1, ge=1)
    """Fewest processes."""
    max: int = Field(ge=1)
    """Most processes."""

    @model_validator(mode="after")
    def _are_bounds(self) -> "Bounds":
        if self.min > self.max:
            raise ValueError(f"min: is {self.min}, above max = {self.max}; give a range")
        return self


class LaunchConfig(Section):
    """How the launcher treats its processes."""

    type: str = "local"
    """Registered launcher: ``local`` (processes on this machine), ``ray`` (on a Ray cluster), or one of an installed
    package."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Read by a launcher of an installed package; ``local`` and ``ray`` take none."""
    ray: RayConfig = Field(default_factory=RayConfig)
    host: str = ""
    """Name or IP of this machine at which all of its actors listen, so that other hosts reach them; an actor whose
    ``address`` is configured beyond this machine keeps that. Empty: this machine alone."""
    scale: dict[str, Bounds] = Field(default_factory=dict)
    """Pools whose size follows what is measured, e.g. ``{ rollout = { min = 1, max = 8 } }``: ``rollout`` by the
    learner's waiting, ``verifier`` and ``teacher-NAME`` by their queues."""
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
    learner_restarts: int = Field(3, ge=0)
    """Restarts of the learner from its last checkpoint within ten minutes, after a signal killed it or its host was
    lost; one more such death ends the run. An error of its own ends the run at once."""
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
        for pool in self.scale:
            # An environment server reports no queue, by which it could be scaled.
            if pool not in ("rollout", "verifier") and not pool.startswith("teacher-"):
                raise ValueError(f"launch.scale: names {pool!r}; give rollout, verifier or teacher-NAME")
        for kind in self.ray.cpus:
            if kind not in KINDS or kind == "hub":  # the hub stays with the launcher
                raise ValueError(f"launch.ray.cpus: names {kind!r}; give of {', '.join(KINDS[1:])}")
        for kind, cores in self.cores.items():
            # Only actors take --cores; the process that prepares is not an actor.
            if kind not in KINDS:
                raise ValueError(f"launch.cores: names {kind!r}, not a kind of actor; see `rlserve serve --help`")
            if not cores or min(cores) < 0:
                raise ValueError(f"launch.cores.{kind}: is {list(cores)}; give core numbers from 0")
        return self
