"""Cores and GPUs of each process, as Ray counts them. Pure, so that ``--dry-run`` can print it."""

import math
from dataclasses import dataclass

from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import needs_of
from rlserve.launch.plan import ProcessSpec


@dataclass(frozen=True, slots=True)
class Resources:
    """What Ray reserves for a process."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return " and ".join(f"{n:g} {what}" for n, what in ((self.cpus, "CPU"), (self.gpus, "GPU")) if n) or "no share"

    @property
    def bundle(self) -> dict[str, float]:
        """As a placement group takes it; it takes no empty one."""
        named = {"CPU": self.cpus, "GPU": self.gpus}
        return {name: amount for name, amount in named.items() if amount} or {"CPU": 0.001}


def check_needs(config: RunConfig) -> None:
    """Raise ConfigError for what Ray does by itself."""
    for role, asked in config.launch.gpus.items():
        if not isinstance(asked, int):
            raise ConfigError(
                f"launch.gpus.{role}: is {list(asked)}, but Ray chooses which GPUs a process gets; give their number"
            )


def resources_of(spec: ProcessSpec, config: RunConfig, *, cluster_gpus: float = 0) -> Resources:
    """What Ray reserves for a process in a cluster with so many GPUs.

    Example, two rollout workers and ``[launch.gpus] rollout = 1`` in a cluster with GPUs: half of one for each.
    """
    return Resources(config.launch.ray.cpus.get(spec.kind, 0.0), _gpus(spec, config, cluster_gpus))


def _gpus(spec: ProcessSpec, config: RunConfig, cluster_gpus: float) -> float:
    needs = needs_of(config)
    own = next((need.count for need in needs if need.role == spec.kind), 0)
    if not (cluster_gpus and own):
        return 0.0
    if cluster_gpus == 1:
        return math.floor(100 / len(needs)) / 100  # a single GPU is shared by all, and Ray counts in small parts
    asked = config.launch.gpus.get(spec.kind)  # type: ignore[call-overload]
    wanted = sum(need.count for need in needs if need.role == spec.kind)
    if not isinstance(asked, int) or asked >= wanted:
        return float(own)
    share = own * asked / wanted
    # Ray gives parts of one GPU, or whole ones.
    return math.floor(100 * share) / 100 if share < 1 else float(math.ceil(share))
