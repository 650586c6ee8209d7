"""Brings up DeepSpeed for one learner rank: environment, process group, configuration, optimizer.

It works without a launcher: one rank needs no port, several meet at MASTER_ADDR:MASTER_PORT. Nothing is compiled on
CPU: the optimizer is torch's, and the shared-memory collectives, which take 66 s to build, are switched off.
"""

import importlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]  # torch lists them in no __all__

from rlserve.config.deepspeed import merged
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError, DeadlineExceeded
from rlserve.importing import collector_paused
from rlserve.memory.formulas import BUCKET_ELEMENTS, LIVE_ELEMENTS, effective_stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """This process among the learner's ranks: its number, their count, and the address where they meet.

    Example, the second of two ranks as the launcher starts it::

        RANK=1 WORLD_SIZE=2 MASTER_ADDR=10.0.0.7 MASTER_PORT=29500
        RankInfo.from_environment(os.environ)    # rank=1, world_size=2, local_rank=1
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    """Port of rank 0's store, where the ranks meet; 0 with a single rank."""
    meeting_seconds: float = 600.0
    """Longest wait for the others. Hosts may start minutes apart."""

    @property
    def device(self) -> torch.device:
        """The rank's own GPU, or the CPU where there is none."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "RankInfo":
        """Read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; a single rank where they are absent."""
        rank = int(environment.get("RANK", "0"))
        return cls(
            rank=rank,
            world_size=int(environment.get("WORLD_SIZE", "1")),
            local_rank=int(environment.get("LOCAL_RANK", str(rank))),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=int(environment.get("MASTER_PORT", "0")),
        )


def import_deepspeed(device: torch.device) -> ModuleType:
    """Import DeepSpeed, prepared for ``device``. Call it before transformers is imported, which imports DeepSpeed."""
    if device.type == "cpu":
        # DeepSpeed 0.19 otherwise chooses by the extensions that are installed (torch_npu, for example), whatever torch
        # uses.
        os.environ["DS_ACCELERATOR"] = "cpu"
    # A process killed while it builds an extension leaves a lock behind, and the next process waits on it without end:
    # so no two processes share a folder. torch creates the folder only when it builds something.
    caches = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(caches / "rlserve" / "extensions" / str(os.getpid())))
    import deepspeed

    # Otherwise the first process group on a CPU compiles this extension. deepspeed 0.19 has no public switch, hence the
    # private name; remove this line once it has one.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module


def import_libraries() -> None:
    """Import all that an engine needs, which takes seconds: call it before a wait for something else."""
    with collector_paused():
        import_deepspeed(RankInfo.from_environment(os.environ).device)
        # The module behind AutoModelForCausalLM: ``import transformers`` alone is lazy and loads next to nothing.
        importlib.import_module("transformers.models.auto.modeling_auto")


def init_process_group(deepspeed: ModuleType, rank_info: RankInfo, *, timeout_seconds: float) -> None:
    """Join the other ranks: gloo on CPU, nccl on GPU. Raises DeadlineExceeded when one of them does not come.

    ``timeout_seconds`` bounds each collective operation afterwards.
    """
    if distributed.is_initialized():
        return  # by an earlier engine of this process: torch has one default group
    os.environ["LOCAL_RANK"] = str(rank_info.local_rank)  # deepspeed.initialize reads it
    backend = "nccl" if rank_info.device.type == "cuda" else "gloo"
    if rank_info.device.type == "cuda":
        # nccl communicates from the current device, which is GPU 0 in every process until it is set.
        torch.cuda.set_device(rank_info.device)
    try:
        distributed.init_process_group(
            backend,
            store=_store(rank_info),
            rank=rank_info.rank,
            world_size=rank_info.world_size,
            timeout=timedelta(seconds=timeout_seconds),
        )
    except (distributed.DistStoreError, distributed.DistNetworkError) as error:
        raise DeadlineExceeded(
            f"rank {rank_info.rank}: not all {rank_info.world_size} learner ranks came to "
            f"{rank_info.address}:{rank_info.port} within {rank_info.meeting_seconds:g} s; look into their logs "
            f"({error})"
        ) from error
    # torch's group exists by now, so DeepSpeed takes it over. Without auto_mpi_discovery=False it may look for MPI
    # where launcher variables are missing, and import mpi4py.
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def bound_collectives(timeout_seconds: float) -> None:
    """Apply a timeout to the process groups DeepSpeed made: it makes them with torch's default, 30 minutes."""
    from torch.distributed import distributed_c10d

    for group in list(distributed_c10d._world.pg_map):  # private names of torch 2.13; there is no public way
        distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_seconds), group)


def _store(rank_info: RankInfo) -> Store:
    if rank_info.world_size == 1:
        return HashStore()  # in this process: a single rank opens no port
    if not rank_info.port:
        raise ConfigError(f"MASTER_PORT: is 0 with WORLD_SIZE = {rank_info.world_size}; name a port where ranks meet")
    return TCPStore(
        rank_info.address,
        rank_info.port,
        rank_info.world_size,
        is_master=rank_info.rank == 0,
        timeout=timedelta(seconds=rank_info.meeting_seconds),
    )


def deepspeed_config(config: LearnerConfig, *, num_parameters: int, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration dictionary.

    Micro-batches are counted by the caller (``set_gradient_accumulation_boundary``), hence 1 and 1 here. Stage
    0 clips in ``LearnerEngine``: DeepSpeed reports no gradient norm there.
    """
    # ZeRO allocates its buckets whole: for a small model no larger ones than the model.
    bucket = min(BUCKET_ELEMENTS, max(num_parameters, 1))
    stage = effective_stage(config)
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm if stage else 0.0,
        "steps_per_print": None,  # the learner writes its own log
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own would be compiled on CPU
        "zero_force_ds_cpu_optimizer": False,  # the same where the optimizer is offloaded
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},  # many micro-batches: sums in bfloat16 would lose the small ones
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": device.type == "cuda",  # it needs CUDA streams
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": max(10 * bucket, LIVE_ELEMENTS),
        },
    }
    return merged(ours, config.deepspeed)


def create_optimizer(parameters: Iterable[nn.Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """AdamW of torch, fused: one pass over the memory, and no build on any device."""
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def torch_threads(config: LearnerConfig, environment: Mapping[str, str], processors: int) -> int:
    """CPU threads of one rank: as configured, or OMP_NUM_THREADS, or half of the processors shared by the ranks.

    The other half is for the rollout workers: busy processes with a thread too many each spin-wait on one another
    and run several times slower.
    """
    asked = environment.get("OMP_NUM_THREADS", "")
    wanted = config.torch_threads or (int(asked) if asked.isdecimal() else 0)
    return wanted or max(1, processors // (2 * config.ranks))
