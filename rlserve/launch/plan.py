"""A run configuration as a list of processes. Pure, so that ``--dry-run`` can print it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlserve.config.run import RunConfig
from rlserve.launch.gpus import rank_name, share_out
from rlserve.launch.ports import on_host

HUB = "hub"
LEARNER = "learner"
PREPARE = "prepare"
ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process of a run."""

    name: str
    """Actor id and name of its log, e.g. ``"rollout-0"``."""
    kind: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the launcher's own environment."""
    restartable: bool = True
    """False for the learner, whose ranks are restarted together, and for what runs once."""


def plan_processes(
    config: RunConfig,
    run_directory: Path,
    *,
    hub_address: str,
    resume: bool = False,
    gpus: Sequence[str] = (),
) -> list[ProcessSpec]:
    """All processes of a run but the hub, in the order of their start.

    ``gpus``: those of this machine, as ``CUDA_VISIBLE_DEVICES`` names them. Raises ConfigError when they are too few.
    Where the learner's ranks meet is for the launcher to say, which knows where rank 0 runs.
    """
    shares = share_out(config, gpus)
    common = ("--run", str(run_directory), "--hub", hub_address)
    prepares = config.pretrain is not None or any(teacher.is_made_here for teacher in config.teachers)
    # First, since actors that load a model wait for it; they import their libraries meanwhile.
    specs = [_prepare(run_directory)] if prepares else []
    specs += [
        _actor("environment-0", "environment", (*common, *_at(config, ANY_PORT))),
        _actor("verifier-0", "verifier", (*common, *_at(config, config.verifier.address))),
    ]
    specs += [
        _actor(
            f"teacher-{teacher.name}-{i}",
            "teacher",
            ("--teacher", teacher.name, *common, *_at(config, teacher.address)),
        )
        for teacher in config.teachers
        for i in range(teacher.servers)
    ]
    specs += [_rank(config, rank, common, resume) for rank in range(config.learner.ranks)]
    rollout = (*common, *_at(config, config.rollout.address))
    specs += [_actor(f"rollout-{i}", "rollout", rollout) for i in range(config.rollout.workers)]
    return [_on_gpus(_on_cores(spec, config.launch.cores), shares) for spec in specs]


def plan_hub(run_directory: Path, address: str) -> ProcessSpec:
    """The hub: it starts first, for the others need its address."""
    return _actor(HUB, "hub", ("--run", str(run_directory), "--address", address))


def pool_of(name: str) -> str:
    """The pool of a process: its name without the number, ``"teacher-big"`` of ``"teacher-big-0"``."""
    return name.rpartition("-")[0]


def configured_address(config: RunConfig, spec: ProcessSpec) -> str:
    """Where an actor listens as configured; empty for what is no actor."""
    known = {
        "environment": ANY_PORT,
        "verifier": config.verifier.address,
        "learner": config.learner.address,
        "rollout": config.rollout.address,
        "teacher": {f"teacher-{t.name}": t.address for t in config.teachers}.get(pool_of(spec.name), ""),
    }
    return known.get(spec.kind, "")


def _at(config: RunConfig, address: str) -> tuple[str, ...]:
    # Without launch.host each actor reads its address from the configuration itself.
    return ("--address", on_host(address, config.launch.host)) if config.launch.host else ()


def _prepare(run_directory: Path) -> ProcessSpec:
    command = (sys.executable, "-m", "rlserve.launch.prepare", str(run_directory))
    return ProcessSpec(name=PREPARE, kind=PREPARE, command=command, restartable=False)


def _on_cores(spec: ProcessSpec, cores: Mapping[str, Sequence[int]]) -> ProcessSpec:
    if spec.kind not in cores:
        return spec
    listed = ",".join(map(str, cores[spec.kind]))
    return replace(spec, command=(*spec.command, "--cores", listed))


def _on_gpus(spec: ProcessSpec, shares: Mapping[str, Sequence[str]]) -> ProcessSpec:
    if spec.name not in shares:
        return spec
    # A process sees its own GPUs alone, numbered from 0.
    own = {"CUDA_VISIBLE_DEVICES": ",".join(shares[spec.name])}
    local = {"LOCAL_RANK": "0"} if spec.kind == LEARNER else {}
    return replace(spec, environment={**spec.environment, **own, **local})


def _actor(name: str, kind: str, options: tuple[str, ...]) -> ProcessSpec:
    command = (sys.executable, "-m", "rlserve.cli.main", "serve", kind, "--id", name, *options)
    return ProcessSpec(name=name, kind=kind, command=command)


def _rank(config: RunConfig, rank: int, common: tuple[str, ...], resume: bool) -> ProcessSpec:
    name = rank_name(rank)
    at = _at(config, config.learner.address)
    base = _actor(name, LEARNER, (*common, *at, *(("--resume",) if resume else ())))
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(config.learner.ranks),
    }
    return ProcessSpec(name=name, kind=LEARNER, command=base.command, environment=environment, restartable=False)
