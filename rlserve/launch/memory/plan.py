"""Bytes of every process of a run on a machine; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlserve.config.algorithms.distillation import MixedConfig
from rlserve.config.run import RunConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.engines.vllm.cpu import padded, room
from rlserve.engines.vllm.options import CPU_BATCH_TOKENS
from rlserve.launch.gpus import LEARNER, ROLLOUT, Need, needs_of, share_out
from rlserve.launch.memory.shapes import teacher_shape
from rlserve.launch.plan import HUB
from rlserve.memory.formulas import (
    ACTOR_BYTES,
    ITEM,
    LIGHT_PROCESS,
    Memory,
    cpu_engine,
    gpu_engine,
    kv_bytes,
    learner_rank,
    teacher_server,
    trained_elements,
)
from rlserve.memory.machine import Machine
from rlserve.memory.shape import ModelShape
from rlserve.weight_sync.weight_files import COPIES

LIGHT = (HUB, "environment-0", "verifier-0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One process of a run."""

    name: str
    gpus: tuple[str, ...] = ()
    memory: Memory

    @property
    def host(self) -> int:
        """Bytes in host memory."""
        return sum(self.memory.host.values()) + (0 if self.gpus else self.memory.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """All processes of a run on a machine."""

    machine: Machine
    processes: tuple[Planned, ...]
    shared: int
    """Bytes of published weights in shared memory, or else in the run directory."""
    longest: int
    """Bytes of keys and values of one sequence of the longest length, on each GPU of an engine."""

    @property
    def host(self) -> int:
        """Bytes of host memory, shared memory included."""
        return sum(process.host for process in self.processes) + self.shared

    def on(self, gpu: str) -> list[Planned]:
        """The processes on a GPU."""
        return [process for process in self.processes if gpu in process.gpus]


def plan_memory(config: RunConfig, machine: Machine, shape: ModelShape) -> MemoryPlan:
    """The plan of a run of a model with this shape. Raises ConfigError when the GPUs do not suffice."""
    shares = share_out(config, tuple(machine.gpus))
    light = Memory(parts={"libraries": LIGHT_PROCESS}, total=LIGHT_PROCESS, host={})
    planned = [Planned(name=name, memory=light) for name in LIGHT]
    for need in needs_of(config):
        gpus = shares.get(need.process, ())
        if (memory := _memory(config, machine, shape, need, gpus)) is not None:
            planned.append(Planned(name=need.process, gpus=gpus, memory=memory))
    learner = config.learner
    publish = learner.dtype if learner.lora else learner.publish_dtype or config.rollout.dtype
    return MemoryPlan(
        machine=machine,
        processes=tuple(planned),
        shared=COPIES * ITEM[publish] * trained_elements(shape, learner),
        longest=_per_token(config, shape) * config.model.max_length // config.rollout.tensor_parallel,
    )


def _per_token(config: RunConfig, shape: ModelShape) -> int:
    return kv_bytes(shape, config.rollout.dtype, config.rollout.options)


def has_reference(config: RunConfig) -> bool:
    """Whether each rank holds a reference model beside the policy."""
    algorithm = config.algorithm
    rewarded = algorithm.reward if isinstance(algorithm, MixedConfig) else algorithm
    kl = getattr(rewarded, "kl", None)
    wanted = getattr(rewarded, "type", "") in ("dpo", "kto") or bool(kl and kl.coefficient)
    # Of a policy with adapters it is the policy without them.
    return wanted and not config.reference.teacher and config.learner.lora is None


def _memory(config: RunConfig, machine: Machine, shape: ModelShape, need: Need, gpus: Sequence[str]) -> Memory | None:
    """Of one process; None for a teacher of unknown shape."""
    if need.role == LEARNER:
        rank = learner_rank(shape, config.learner, on_gpu=bool(gpus), reference=has_reference(config))
        return (
            rank if gpus else replace(rank, parts={**rank.parts, "actor": ACTOR_BYTES}, total=rank.total + ACTOR_BYTES)
        )
    smallest = min((machine.gpus[gpu] for gpu in gpus), default=0)
    if need.role == ROLLOUT:
        return _worker(config, shape, smallest if gpus else None)
    teacher = next(t for t in config.teachers if need.process.rpartition("-")[0] == f"teacher-{t.name}")
    its = teacher_shape(teacher, shape)
    return _teacher(teacher, its, smallest if gpus else None) if its else None


def _worker(config: RunConfig, shape: ModelShape, gpu_bytes: int | None) -> Memory:
    rollout, length = config.rollout, config.model.max_length
    if gpu_bytes is None:
        return cpu_engine(
            shape,
            rollout.dtype,
            kv_cache=_cpu_cache(shape, rollout.dtype, length, rollout.kv_cache_bytes),
            step_tokens=max(CPU_BATCH_TOKENS, length),
        )
    return gpu_engine(
        shape,
        rollout.dtype,
        parallel=rollout.tensor_parallel,
        budget=int(rollout.gpu_memory_fraction * gpu_bytes),
        kv_cache=rollout.kv_cache_bytes,
        sequences=rollout.max_num_seqs,
        eager=rollout.enforce_eager,
        options=rollout.options,
    )


def _teacher(teacher: TeacherConfig, shape: ModelShape, gpu_bytes: int | None) -> Memory:
    if teacher.engine != "vllm":
        return teacher_server(shape, teacher, on_gpu=gpu_bytes is not None)
    if gpu_bytes is None:
        cache = _cpu_cache(shape, teacher.dtype, teacher.max_length, teacher.kv_cache_bytes)
        tokens = max(CPU_BATCH_TOKENS, teacher.max_length)
        return cpu_engine(shape, teacher.dtype, kv_cache=cache, step_tokens=tokens, updated=False)
    defaults = RolloutConfig()  # a teacher's engine has no keys of its own for these
    return gpu_engine(
        shape,
        teacher.dtype,
        parallel=1,
        budget=int(defaults.gpu_memory_fraction * gpu_bytes),
        kv_cache=teacher.kv_cache_bytes,
        sequences=defaults.max_num_seqs,
        eager=False,
        updated=False,
    )


def _cpu_cache(shape: ModelShape, dtype: str, length: int, asked: int) -> int:
    return asked or room(kv_bytes(shape, dtype) * padded(length))
