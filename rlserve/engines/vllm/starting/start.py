"""Starts vLLM: the slowest part of a rollout worker's start, so whatever can be done early or shared is.

Importing vLLM takes 4 to 9 seconds, in this process and again in EngineCore's. On CPU, EngineCore is therefore forked
by a *fork server* (``multiprocessing.forkserver``) that has imported it; this process itself cannot be forked, since
gRPC has threads in it. A worker process imports vLLM while it has one thread and forks the fork server off
(``fork_early``): one import, shared memory. Where that was not possible (a bench, a test, a teacher) the fork server is
a process of its own, which imports beside this one from ``warm_up`` on.
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

from rlserve.engines.base import EngineOptions
from rlserve.engines.vllm.cpu import cpu_kv_cache_bytes
from rlserve.engines.vllm.options import engine_arguments, prepare_environment, runs_on_cpu
from rlserve.importing import collector_paused

# Both replacements below (``_forking`` and ``_fork_server``) stand in for what vLLM does not offer: its setting
# VLLM_WORKER_MULTIPROC_METHOD takes "fork" and "spawn" alone. A fork server with preloaded modules was merged upstream
# and reverted hours later (https://github.com/vllm-project/vllm/pull/40331); allowing "forkserver" again was proposed
# and closed (https://github.com/vllm-project/vllm/pull/45483). Remove ``_fork_server`` once a release of vLLM accepts
# "forkserver" for EngineCore, and ``_forking`` once the fork server that it starts then imports EngineCore early.
PRELOAD = "rlserve.engines.vllm.starting.preload"
"""What the fork server imports; by name, since importing it here would do the same to this process."""


def fork_early() -> None:
    """Import vLLM and fork the fork server off. Blocks for seconds; call it while this process has one thread.

    Does nothing where vLLM runs on an accelerator, or once there is a second thread: a fork would copy its locks.
    """
    if not runs_on_cpu() or threading.active_count() > 1:
        return
    prepare_environment(on_cpu=True)
    _import_front()
    import_engine_core()
    gc.freeze()  # before the fork: a collection in either process would write to, and so copy, every shared page
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
    """A running ``AsyncLLM`` with rlserve's weight transfer in it. Blocks; call it in a thread.

    ``others`` are further arguments of vLLM's ``AsyncEngineArgs``.
    """
    warm_up()
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from rlserve.engines.vllm.plugin import BACKEND, EXTENSION, register

    on_cpu = runs_on_cpu()
    register()
    if on_cpu:
        options = _for_cpu(options)
    config = AsyncEngineArgs(
        **{**engine_arguments(options, on_cpu=on_cpu), **others},
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=EXTENSION,
    ).create_engine_config()
    with _fork_server() if on_cpu else contextlib.nullcontext():
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


def import_engine_core() -> None:
    """Import all that EngineCore runs on CPU."""
    with collector_paused():
        import vllm.v1.engine.core
        import vllm.v1.executor.uniproc_executor
        import vllm.v1.worker.cpu_worker  # noqa: F401


def _import_front() -> None:
    with collector_paused():
        import vllm.v1.engine.async_llm  # noqa: F401


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Make ``multiprocessing`` fork this process where it would start an interpreter for the fork server."""
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
    """Act as the interpreter that ``multiprocessing`` wanted to start: close all other files and run ``command``."""
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
    """Set the title that ``ps`` shows; vLLM does the same with EngineCore."""
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(title)


@contextlib.contextmanager
def _fork_server() -> Iterator[None]:
    """Make vLLM start EngineCore from the fork server."""
    from vllm.v1.engine import utils as module

    utils: Any = module
    theirs = utils.get_mp_context
    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        utils.get_mp_context = theirs


def _for_cpu(options: EngineOptions) -> EngineOptions:
    """The options with a KV cache that fits the model. Raises ConfigError when the configured size does not."""
    from transformers import AutoConfig

    model = AutoConfig.from_pretrained(options.model_path)
    if Path(options.model_path).is_dir():
        _import_model_class(model.architectures or [])
    size = cpu_kv_cache_bytes(model, dtype=options.dtype, max_length=options.max_length, asked=options.kv_cache_bytes)
    return replace(options, kv_cache_bytes=size)


def _import_model_class(architectures: Sequence[str]) -> None:
    """Register the model's class as imported.

    Otherwise vLLM inspects it in a subprocess, to keep CUDA uninitialised here, which takes 8 seconds at the first use
    of an architecture on a machine.
    """
    from vllm.model_executor.models import ModelRegistry

    for architecture in architectures:
        known: Any = ModelRegistry.models.get(architecture)
        if hasattr(known, "load_model_cls"):
            ModelRegistry.register_model(architecture, known.load_model_cls())
