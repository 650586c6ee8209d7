"""The memory plan of a start on this machine, as findings before it and as a table."""

from collections.abc import Iterator

from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import visible_gpus
from rlserve.launch.memory.fit import problems
from rlserve.launch.memory.plan import MemoryPlan, plan_memory
from rlserve.launch.memory.shapes import shape_of
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.memory.formulas import CONTEXT, GIB
from rlserve.memory.machine import Machine, here
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.weight_files import COPIES, free_bytes

MESSAGE_BYTES = 256 * 2**20
"""vLLM's queue of a tensor-parallel engine may take 160 MiB, NCCL some tens a rank; a container has 64 by default."""
UNKNOWN = "the shape of its model is not known here; rlserve plan --model-config takes a config.json"


def this_machine() -> Machine:
    """The machine that this process runs on."""
    return here(visible_gpus(), free_bytes(SHARED_MEMORY))


def check_memory(config: RunConfig, paths: RunPaths, machine: Machine | None = None) -> Iterator[Finding]:
    """Faults and warnings about a start on this machine; none where the model's shape is not known."""
    shape = shape_of(config)
    if shape is None:
        return
    machine = machine or this_machine()
    try:
        yield from (Finding(message) for message in problems(config, machine, shape))
        plan = plan_memory(config, machine, shape)
    except ConfigError:
        return  # too few GPUs, which check_gpus says
    yield from _check_staging(plan)
    yield from _check_room(plan, paths)
    yield from _check_messages(config, machine)


def _check_staging(plan: MemoryPlan) -> Iterator[Finding]:
    """Whether engines can stage the next weights on their GPU."""
    for gpu, size in plan.machine.gpus.items():
        there = plan.on(gpu)
        if any(p.memory.movable for p in there) and 0 < size < sum(p.memory.total + CONTEXT for p in there):
            yield warning(
                f"rollout.gpu_memory_fraction: GPU {gpu} has no room for the next weights beside all else: they are "
                "staged in host memory, and the pauses for them grow; lower it to change that"
            )


def _check_messages(config: RunConfig, machine: Machine) -> Iterator[Finding]:
    """NCCL and the parts of a tensor-parallel engine send each other messages through shared memory."""
    wide = [key for key in ("learner.ranks", "rollout.tensor_parallel") if _value(config, key) > 1]
    if machine.gpus and wide and machine.shared is not None and machine.shared < MESSAGE_BYTES:
        yield warning(
            f"{wide[0]}: is {_value(config, wide[0])}, which talk through {SHARED_MEMORY}, and that has "
            f"{machine.shared / 2**20:.0f} MiB free; in a container give it --shm-size=1g or more"
        )


def _value(config: RunConfig, key: str) -> int:
    return config.learner.ranks if key == "learner.ranks" else config.rollout.tensor_parallel


def _check_room(plan: MemoryPlan, paths: RunPaths) -> Iterator[Finding]:
    """Whether published weights have room in shared memory, or else in the run directory."""
    free = plan.machine.shared or 0
    if free >= plan.shared:
        return
    root = next(path for path in (paths.root, *paths.root.parents) if path.exists())
    need = f"{COPIES} versions of the weights need {plan.shared / GIB:.2f} GiB"
    if free_bytes(root) < plan.shared:
        yield Finding(
            f"directory: {need}, but {SHARED_MEMORY} has {free / GIB:.2f} free, and {str(root)!r} "
            f"{free_bytes(root) / GIB:.2f}; make room there, or give another with --set directory=DIRECTORY"
        )
    else:
        yield warning(
            f"weights: {need}, but {SHARED_MEMORY} has {free / GIB:.2f} free: they go through the run directory, which "
            "is slower on a disk; in a container give it --shm-size"
        )


def table(config: RunConfig, machine: Machine | None = None) -> Iterator[str]:
    """The plan on this machine as lines; one that says why where there is none."""
    shape = shape_of(config)
    if shape is None:
        yield f"memory: {UNKNOWN}"
        return
    try:
        yield from lines(plan_memory(config, machine or this_machine(), shape))
    except ConfigError as error:
        yield f"memory: {error}"


def lines(plan: MemoryPlan) -> Iterator[str]:
    """What each process holds, then each GPU, shared memory and the host."""
    machine = plan.machine
    yield f"memory on {machine.name}, in GiB, at most at once"
    for process in plan.processes:
        parts = {**process.memory.parts, **{f"host {name}": size for name, size in process.memory.host.items()}}
        named = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
        where = f"GPU {','.join(process.gpus)}" if process.gpus else "host"
        yield f"{process.name:16} {where:8} {process.memory.total / GIB:8.2f}  {named}"
    for gpu, size in machine.gpus.items():
        need = sum(process.memory.total + CONTEXT for process in plan.on(gpu))
        yield f"{f'GPU {gpu}':25} {need / GIB:8.2f}  of {f'{size / GIB:.1f}' if size else 'an unknown size'}"
    free = "" if machine.shared is None else f" ({machine.shared / GIB:.2f} free)"
    yield f"{'shared memory':25} {plan.shared / GIB:8.2f}  {COPIES} versions of the weights in {SHARED_MEMORY}{free}"
    yield f"{'host memory':25} {plan.host / GIB:8.2f}{f'  of {machine.memory / GIB:.1f}' if machine.memory else ''}"
