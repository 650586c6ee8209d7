"""Starts vLLM: the slow part of a rollout worker, so everything that can be done early or saved is.

Importing vLLM takes 4 to 9 seconds, here and again where EngineCore runs. On CPU, EngineCore is forked by a *fork
server* (of ``multiprocessing``) which has imported it; we are no process to fork from ourselves, with gRPC's threads.
A worker process imports before it has any thread, and the fork server is a fork of it: one import, in one memory
(``fork_early``). Elsewhere the fork server is a process of its own, which imports beside us, from ``warm_up`` on.
"""

import contextlib
import gc
import importlib
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NoReturn

from rlserve.actors.importing import collector_paused
from rlserve.actors.rollout.engine_options import EngineOptions
from rlserve.actors.rollout.kv_cache import cpu_kv_cache_bytes
from rlserve.actors.rollout.settings import prepare_environment, runs_on_cpu

PRELOAD = "rlserve.actors.rollout.engine_preload"


def fork_early() -> None:
    """Import vLLM and fork the fork server off. Blocks for seconds; call it while this process has one thread.

    Where there is no need for a fork server, or there is a second thread already, this does nothing.
    """
    if not runs_on_cpu() or threading.active_count() > 1:
        return
    prepare_environment(on_cpu=True)
    _import_front()
    import_engine_core()
    gc.freeze()
    multiprocessing.set_forkserver_preload([PRELOAD])
    with _forking():
        forkserver.ensure_running()


def warm_up() -> None:
    """Import vLLM, here and in the fork server. Blocks for seconds; ``launch`` calls it too."""
    on_cpu = runs_on_cpu()
    prepare_environment(on_cpu=on_cpu)
    if on_cpu:
        multiprocessing.set_forkserver_preload([PRELOAD])
        forkserver.ensure_running()
    _import_front()


def launch(options: EngineOptions, **others: Any) -> Any:
    """A running ``AsyncLLM`` with our weight transfer in it. Blocks; call it in a thread.

    ``others`` are further arguments of vLLM's ``AsyncEngineArgs``.
    """
    warm_up()
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from rlserve.actors.rollout.weight_plugin import BACKEND, EXTENSION, register

    on_cpu = runs_on_cpu()
    register()
    if on_cpu:
        options = _for_cpu(options)
    config = AsyncEngineArgs(
        **{**options.engine_arguments(on_cpu=on_cpu), **others},
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=EXTENSION,
    ).create_engine_config()
    with _fork_server() if on_cpu else contextlib.nullcontext():
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


def import_engine_core() -> None:
    """All that EngineCore runs on CPU."""
    with collector_paused():
        import vllm.v1.engine.core
        import vllm.v1.executor.uniproc_executor
        import vllm.v1.worker.cpu_worker  # noqa: F401


def _import_front() -> None:
    with collector_paused():
        import vllm.v1.engine.async_llm  # noqa: F401


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Have ``multiprocessing`` fork this process where it would start an interpreter for the fork server."""
    module: Any = forkserver.util  # type: ignore[attr-defined]
    theirs = module.spawnv_passfds

    def fork(_: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        child = os.fork()
        if not child:
            _become(arguments[-1], descriptors)
        return child

    module.spawnv_passfds = fork
    try:
        yield
    finally:
        module.spawnv_passfds = theirs


def _become(command: str, descriptors: Sequence[int]) -> NoReturn:
    """Go on as the interpreter that would have been started: nothing but these files open, ``command`` to run."""
    try:
        _rename("rlserve::ForkServer")
        kept = sorted({2, *descriptors})
        for before, after in pairwise([*kept, os.sysconf("SC_OPEN_MAX")]):
            os.closerange(before + 1, after)
        exec(command, {})
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def _rename(title: str) -> None:
    """In lists of processes; vLLM does the same with EngineCore."""
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(title)


@contextlib.contextmanager
def _fork_server() -> Iterator[None]:
    """Have vLLM start EngineCore from the fork server. Its own setting knows only "spawn" and "fork"."""
    from vllm.v1.engine import utils as module

    utils: Any = module
    theirs = utils.get_mp_context
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        utils.get_mp_context = theirs


def _for_cpu(options: EngineOptions) -> EngineOptions:
    """With a KV cache of a size that fits the model. Raises ConfigError when the configuration's does not."""
    from transformers import AutoConfig

    model = AutoConfig.from_pretrained(options.model_path)
    if Path(options.model_path).is_dir():
        _import_model_class(model.architectures or [])
    size = cpu_kv_cache_bytes(model, dtype=options.dtype, max_length=options.max_length, asked=options.kv_cache_bytes)
    return replace(options, kv_cache_bytes=size)


def _import_model_class(architectures: Sequence[str]) -> None:
    """vLLM would look at the model's class in a process of its own, lest CUDA be initialised here.

    That takes 8 seconds, at the first use of an architecture on a machine.
    """
    from vllm.model_executor.models import ModelRegistry

    for architecture in architectures:
        known: Any = ModelRegistry.models.get(architecture)
        if hasattr(known, "load_model_cls"):
            ModelRegistry.register_model(architecture, known.load_model_cls())
