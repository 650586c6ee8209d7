"""How the rollout engine is built, and how it samples."""

from dataclasses import dataclass
from typing import Any, Self

from rlserve.config.tables.model import ModelConfig
from rlserve.config.tables.rollout import RolloutConfig

CPU_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Everything that is fixed for the life of one engine."""

    model_path: str
    """Hugging Face checkpoint whose weights are version ``version`` of ``RolloutEngine.start``."""
    dtype: str
    """``"float32"`` or ``"bfloat16"``."""
    max_length: int
    """Prompt and completion together, in tokens."""
    kv_cache_bytes: int = 0
    """0 lets vLLM decide; ``launch`` decides on CPU, see ``kv_cache``."""
    max_num_seqs: int = 256
    """Sequences that run at once; more wait in this process."""
    tensor_parallel: int = 1
    gpu_memory_fraction: float = 0.85
    enforce_eager: bool = False
    """Always so on CPU."""
    seed: int = 0
    start_seconds: float = 600.0
    """Limit for the start."""
    update_seconds: float = 300.0
    """Limit for each of: staging weights, swapping them, reading their digest."""
    stall_seconds: float = 60.0
    """An engine that is asked for something and neither answers nor computes for this long is dead."""

    @classmethod
    def from_config(cls, rollout: RolloutConfig, model: ModelConfig, model_path: str, seed: int) -> Self:
        """Options of a rollout worker."""
        return cls(
            model_path=model_path,
            dtype=rollout.dtype,
            max_length=model.max_length,
            kv_cache_bytes=rollout.kv_cache_bytes,
            max_num_seqs=rollout.max_num_seqs,
            tensor_parallel=rollout.tensor_parallel,
            gpu_memory_fraction=rollout.gpu_memory_fraction,
            enforce_eager=rollout.enforce_eager,
            seed=seed,
            stall_seconds=rollout.stall_seconds,
        )

    def engine_arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        """Keyword arguments of vLLM's ``AsyncEngineArgs``, without the plug-in's own."""
        arguments: dict[str, Any] = {
            "model": self.model_path,
            "dtype": self.dtype,
            "max_model_len": self.max_length,
            "max_num_seqs": self.max_num_seqs,
            "tensor_parallel_size": self.tensor_parallel,
            "gpu_memory_utilization": self.gpu_memory_fraction,
            "enforce_eager": self.enforce_eager,
            "seed": self.seed % 2**32,
            "enable_prefix_caching": True,
            "skip_tokenizer_init": True,
            # Stop ids and defaults come from the request alone, never from a file beside the weights.
            "generation_config": "vllm",
            # The log-probability of what was really drawn from: after temperature and top_p.
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if on_cpu:
            # vLLM takes a random draw back when it samples after part of a seeded prompt, which torch's CPU
            # generators cannot do ("CPU Generator does not use offset"): it ends EngineCore. So no partial prompts.
            arguments |= {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(CPU_BATCH_TOKENS, self.max_length),
            }
            if self.tensor_parallel == 1:
                arguments |= {"distributed_executor_backend": "uni"}
        return arguments | ({"kv_cache_memory_bytes": self.kv_cache_bytes} if self.kv_cache_bytes else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingChoice:
    """How one request samples."""

    temperature: float = 1.0
    """0 is greedy; log-probabilities are then those at temperature 1."""
    top_p: float = 1.0
    max_new_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion; the one that did is its last token."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the token that completes one is its last."""
