"""Which GPUs each process of a run gets. Pure but for ``visible_gpus``, so that ``--dry-run`` can print it.

Roles take GPUs in order: learner ranks, rollout workers (``rollout.tensor_parallel`` each), teacher servers. One GPU is
shared by all of them. ``[launch.gpus]`` gives a role its GPUs by number or by count, and two roles may name the same.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError

DRIVER = Path("/proc/driver/nvidia/gpus")
"""One entry a card, readable without loading the driver's library."""
Role = Literal["learner", "rollout", "teacher"]
ROLES: tuple[Role, ...] = ("learner", "rollout", "teacher")
LEARNER, ROLLOUT, TEACHER = ROLES


@dataclass(frozen=True, slots=True)
class Need:
    """A process that computes on GPUs."""

    process: str
    role: Role
    count: int


def visible_gpus() -> tuple[str, ...]:
    """GPUs that processes of this machine may use, as ``CUDA_VISIBLE_DEVICES`` names them. Loads no library."""
    try:
        # Not torch.cuda: importing torch takes seconds.
        count = len(list(DRIVER.iterdir()))
    except OSError:
        # A container may have the device files without the driver's directory in /proc.
        count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not count:
        return tuple(map(str, range(count)))
    # A part of a GPU (MIG) is a device of its own, so that more may be listed than there are cards.
    return tuple(name.strip() for name in listed.split(",") if name.strip() not in ("", "-1"))


def gpus_to_plan(config: RunConfig) -> tuple[str, ...]:
    """GPUs that a plan shares out: those of this machine, and none where Ray gives them out."""
    return () if config.launch.type == "ray" else visible_gpus()


def needs_of(config: RunConfig) -> list[Need]:
    """The processes that compute on GPUs, in the order in which they take them."""
    ranks = [Need(rank_name(rank), LEARNER, 1) for rank in range(config.learner.ranks)]
    workers = [Need(f"rollout-{i}", ROLLOUT, config.rollout.tensor_parallel) for i in range(config.rollout.workers)]
    servers = [
        Need(f"teacher-{teacher.name}-{i}", TEACHER, 1) for teacher in config.teachers for i in range(teacher.servers)
    ]
    return [*ranks, *workers, *servers]


def rank_name(rank: int) -> str:
    """Name of a learner rank's process."""
    return LEARNER if rank == 0 else f"{LEARNER}-rank-{rank}"


def share_out(config: RunConfig, gpus: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """GPUs of each process by its name; nothing without GPUs. Raises ConfigError when there are too few.

    Example, ``learner.ranks = 2`` and one worker with ``tensor_parallel = 2`` on four GPUs::

        {"learner": ("0",), "learner-rank-1": ("1",), "rollout-0": ("2", "3")}
    """
    if not gpus:
        return {}
    given = dict(_given(config, gpus))
    free = [gpu for gpu in gpus if not any(gpu in pool for pool in given.values())]
    shares: dict[str, tuple[str, ...]] = {}
    for role in ROLES:
        needs = [need for need in needs_of(config) if need.role == role]
        wanted = sum(need.count for need in needs)
        if role in given:
            pool = list(given[role])
        elif len(gpus) == 1:
            pool = list(gpus)  # one GPU is shared by all roles
        else:
            asked = config.launch.gpus.get(role)
            count = asked if isinstance(asked, int) else wanted
            pool, free = free[:count], free[count:]
        shares |= _deal(config, role, needs, pool, len(gpus))
    return shares


def _given(config: RunConfig, gpus: Sequence[str]) -> Iterator[tuple[Role, tuple[str, ...]]]:
    """(role, its GPUs) of each role for which the configuration lists them."""
    for role, listed in config.launch.gpus.items():
        if isinstance(listed, int):
            continue
        if absent := [number for number in listed if number >= len(gpus)]:
            raise ConfigError(
                f"launch.gpus.{role}: names {absent}, but this machine shows {len(gpus)} GPUs, numbered from 0"
            )
        yield role, tuple(gpus[number] for number in listed)


def _deal(
    config: RunConfig, role: Role, needs: Sequence[Need], pool: Sequence[str], total: int
) -> dict[str, tuple[str, ...]]:
    """The pool, dealt in order, from its start again when it is used up: processes of a role may share a GPU."""
    if not needs:
        return {}
    widest = max(need.count for need in needs)
    # Two ranks on one GPU would wait for each other in NCCL; a tensor-parallel engine needs a GPU a part.
    least = len(needs) if role == LEARNER else widest
    # Without a request in the configuration, processes share no GPU of several.
    asked = role in config.launch.gpus
    wanted = sum(need.count for need in needs)
    if len(pool) < (least if asked or total == 1 else wanted):
        raise ConfigError(_too_few(config, role, len(pool), total))
    shares, next_ = {}, 0
    for need in needs:
        shares[need.process] = tuple(pool[(next_ + i) % len(pool)] for i in range(need.count))
        next_ += need.count
    return shares


def _too_few(config: RunConfig, role: Role, left: int, total: int) -> str:
    teachers = sum(teacher.servers for teacher in config.teachers)
    wanted = f"learner.ranks = {config.learner.ranks}, rollout.workers = {config.rollout.workers}"
    if config.rollout.tensor_parallel > 1:
        wanted += f" of rollout.tensor_parallel = {config.rollout.tensor_parallel}"
    if teachers:
        wanted += f", {teachers} teacher servers"
    return (
        f"launch.gpus: {wanted} need {sum(need.count for need in needs_of(config))} GPUs, this machine shows {total}, "
        f"and {left} are left for {role}; lower these numbers, or let roles share GPUs, e.g. "
        "[launch.gpus] learner = [0], rollout = [0]"
    )


def shared_with(shares: Mapping[str, tuple[str, ...]], process: str) -> list[str]:
    """Other processes on the GPUs of ``process``."""
    mine = set(shares.get(process, ()))
    return [name for name, gpus in shares.items() if name != process and mine & set(gpus)]
