"""``[rollout]``: rollout workers, their engines, and how they sample."""

from typing import Any

from pydantic import Field

from rlserve.config.base import Section
from rlserve.config.tables.model import Dtype


class RolloutConfig(Section):
    """Rollout workers: engine, sampling, time limits."""

    address: str = "127.0.0.1:0"
    """Address of a worker; port 0 takes a free one each."""
    workers: int = Field(1, ge=0)
    """Workers that the launcher starts; more may join from elsewhere."""
    engine: str = "vllm"
    """Inference engine, by its name in ``rlserve.engines.factory``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the engine by its own names, for example ``{ max_num_batched_tokens = 8192 }``; what has a
    key here or is fixed by the engine is refused."""
    group_size: int = Field(8, ge=1)
    """Completions sampled per task."""
    max_groups_in_flight: int = Field(32, ge=1)
    """Groups that one worker holds at once."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; log-probabilities are of the distribution at this temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Only 1.0: log-probabilities are over the whole vocabulary."""
    max_new_tokens: int = Field(512, ge=1)
    """Length limit of a completion."""
    dtype: Dtype = "bfloat16"
    """Precision in which the engine computes."""
    kv_cache_bytes: int = Field(0, ge=0)
    """Size of the KV cache; 0 lets vLLM decide (GPU), or is room for 8 sequences of ``model.max_length`` (CPU)."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that the engine runs at once."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs over which one worker's engine splits the model."""
    gpu_memory_fraction: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that the engine takes for weights and KV cache."""
    enforce_eager: bool = False
    """Skip CUDA graphs and compilation (always so on CPU)."""
    stall_seconds: float = Field(60.0, gt=0)
    """An engine that has requests and neither samples nor uses (or waits for) the processor for this long counts as
    dead; so does one that computes and samples nothing for ten times as long, and a start in which nothing moves. Its
    worker restarts."""
    verify_seconds: float = Field(60.0, gt=0)
    """Longest wait for verifiers that judge nothing at all; then there is no verdict. Time in their queue does not
    count."""
    task_seconds: float = Field(30.0, gt=0)
    """Longest wait for a task before another server is asked."""
