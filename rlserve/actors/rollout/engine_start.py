"""Starts vLLM: the slow part of a rollout worker, so everything that can be saved is.

Measured on two CPU cores, seconds from nothing to a first token: 23 as vLLM comes, 11 as done here. Importing vLLM
takes 7 to 9 of them, once in each process; a *forked* EngineCore inherits the import and its memory. Forking is
safe only while this process runs no other threads that work, so otherwise EngineCore is spawned.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlserve.actors.rollout.engine_options import EngineOptions
from rlserve.actors.rollout.settings import prepare_environment, runs_on_cpu

logger = logging.getLogger(__name__)

OWN_THREADS = 2
"""The main thread, and the one that starts the engine."""


def launch(options: EngineOptions) -> Any:
    """A running ``AsyncLLM`` with our weight transfer in it. Blocks; call it in a thread of its own."""
    on_cpu = runs_on_cpu()
    prepare_environment(on_cpu=on_cpu)
    with _collector_paused():
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from rlserve.actors.rollout.weight_plugin import BACKEND, EXTENSION, register

        if on_cpu:
            _import_for_fork(options.model_path)
    register()
    arguments = options.engine_arguments(on_cpu=on_cpu)
    config = AsyncEngineArgs(
        **arguments,
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=EXTENSION,
    ).create_engine_config()
    if on_cpu and _may_fork():
        import torch

        # In case torch was imported before the environment was prepared; a child inherits this thread's number.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        # vLLM's CPU platform asks for "spawn" just above, to bind OpenMP threads; with one thread there are none.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        os.register_at_fork(after_in_child=_forget_signals)
    return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Importing makes objects that stay; looking for garbage among them takes 2 seconds of 9."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _import_for_fork(model_path: str) -> None:
    """Import what EngineCore will need, the model's class included.

    vLLM would look at that class in a process of its own, lest CUDA be initialised here: 8 seconds at the first
    use of an architecture on a machine.
    """
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from transformers import AutoConfig
    from vllm.model_executor.models import ModelRegistry

    if not Path(model_path).is_dir():
        return
    for architecture in AutoConfig.from_pretrained(model_path).architectures or []:
        known: Any = ModelRegistry.models.get(architecture)
        if hasattr(known, "load_model_cls"):
            ModelRegistry.register_model(architecture, known.load_model_cls())


def _may_fork() -> bool:
    """True while nothing runs that a fork could catch holding a lock.

    That is: of Python the main thread and this one; of native threads only unnamed pools (OpenBLAS, OpenMP), which
    idle. gRPC, for one, names its threads and runs one of Python's.
    """
    if sys.platform != "linux" or threading.active_count() > OWN_THREADS:
        return False
    names = {(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()}
    return len(names) == 1


def _forget_signals() -> None:
    """A forked child shares the event loop's wake-up socket: a signal to it would look like one to us."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
