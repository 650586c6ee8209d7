"""What of a memory plan does not fit, and the change of the configuration that makes it fit; pure."""

from collections.abc import Iterator, Sequence

from rlserve.config.load import merge, parse_override, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import LEARNER, ROLLOUT
from rlserve.launch.memory.plan import MemoryPlan, Planned, plan_memory
from rlserve.memory.formulas import CONTEXT, GIB
from rlserve.memory.machine import Machine
from rlserve.memory.shape import ModelShape

FRACTIONS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of ``rollout.gpu_memory_fraction``, that are tried where a GPU is too small."""
OFFLOAD = 'learner.deepspeed.zero_optimization={ offload_optimizer = { device = "cpu" } }'


def problems(config: RunConfig, machine: Machine, shape: ModelShape) -> list[str]:
    """Messages "key: what does not fit; the change that makes all of it fit, if one does".

    Raises ConfigError when the GPUs do not suffice in number.
    """
    found = list(faults(plan_memory(config, machine, shape), config))
    if not found:
        return []
    values = config.model_dump(mode="json", exclude_none=True)
    for change in changes(config):
        try:
            other = validate(RunConfig, merge(values, parse_override(change)))
            if not any(faults(plan_memory(other, machine, shape), other)):
                return [f"{fault}; --set '{change}' makes it fit" for fault in found]
        except ConfigError:  # it does not go with other keys
            continue
    way = "no single key makes it fit: take more GPUs (learner.ranks with zero_stage = 3), or a smaller model"
    return [f"{fault}; {way}" for fault in found]


def faults(plan: MemoryPlan, config: RunConfig) -> Iterator[str]:
    """What does not fit, each as "key to blame: numbers"."""
    machine = plan.machine
    for gpu, size in machine.gpus.items():
        there = plan.on(gpu)
        need = sum(process.memory.total - process.memory.movable + CONTEXT for process in there)
        if size and need > size:
            who = ", ".join(f"{p.name} {(p.memory.total - p.memory.movable) / GIB:.1f}" for p in there)
            yield (
                f"{_to_blame(there)}: GPU {gpu} of {machine.name} has {size / GIB:.1f} GiB, but {need / GIB:.1f} are "
                f"needed ({who}, and {CONTEXT / GIB:.0f} for each process itself)"
            )
    for process in plan.processes:
        cache = process.memory.parts.get("KV cache", 0)
        if process.name.startswith(ROLLOUT) and _size(process, machine) and cache < plan.longest:
            yield (
                f"rollout.gpu_memory_fraction: {config.rollout.gpu_memory_fraction:g} leaves {process.name} "
                f"{cache / GIB:.2f} GiB for the KV cache, but one sequence of model.max_length = "
                f"{config.model.max_length} needs {plan.longest / GIB:.2f}"
            )
            break  # the others are alike
    if machine.memory and plan.host > machine.memory:
        most = max(plan.processes, key=lambda process: process.host)
        yield (
            f"{_to_blame([most])}: the processes need {plan.host / GIB:.1f} GiB of host memory, and {machine.name} has "
            f"{machine.memory / GIB:.1f}; {most.name} alone needs {most.host / GIB:.1f}"
        )


def changes(config: RunConfig) -> Iterator[str]:
    """Settings that save memory, the cheapest first, as ``--set`` takes them."""
    learner, rollout = config.learner, config.rollout
    if not learner.gradient_checkpointing:
        yield "learner.gradient_checkpointing=true"
    tokens = learner.tokens_per_micro_batch // 2
    while tokens >= config.model.max_length:
        yield f"learner.tokens_per_micro_batch={tokens}"
        tokens //= 2
    if learner.ranks > 1:
        yield from (f"learner.zero_stage={stage}" for stage in (2, 3) if stage > learner.zero_stage)
    yield from (f"rollout.gpu_memory_fraction={share}" for share in FRACTIONS if share < rollout.gpu_memory_fraction)
    yield OFFLOAD
    if rollout.kv_cache_bytes:
        yield "rollout.kv_cache_bytes=0"
    yield from (f"rollout.workers={workers}" for workers in range(rollout.workers - 1, 0, -1))


def _size(process: Planned, machine: Machine) -> int:
    return min((machine.gpus[gpu] for gpu in process.gpus), default=0)


def _to_blame(processes: Sequence[Planned]) -> str:
    """The key that the largest part of the largest process follows from."""
    most = max(processes, key=lambda process: process.memory.total)
    if most.name.startswith(ROLLOUT):
        return "rollout.gpu_memory_fraction" if most.gpus else "rollout.kv_cache_bytes"
    if not most.name.startswith(LEARNER):
        return "teachers.tokens_per_batch"
    parts = most.memory.parts
    working = parts["activations"] + parts["head"]
    return "learner.tokens_per_micro_batch" if 2 * working > most.memory.total else "model.path"
