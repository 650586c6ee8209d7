"""Starts vLLM: the slow part of a rollout worker, so everything that can be done early or saved is.

Importing vLLM takes 7 to 9 seconds, here and again where EngineCore runs. On CPU, EngineCore is forked by a *fork
server* (of ``multiprocessing``) which imports beside us, from ``warm_up`` on: before there is a model to serve. We
are no process to fork from ourselves, with gRPC's threads. Measured on two cores, to the first token: 23 seconds as
vLLM comes, 12 as done here, 4 after a warm-up.
"""

import contextlib
import gc
import multiprocessing
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from rlserve.actors.rollout.engine_options import EngineOptions
from rlserve.actors.rollout.settings import prepare_environment, runs_on_cpu

PRELOAD = "rlserve.actors.rollout.engine_preload"


def warm_up() -> None:
    """Import vLLM, here and in the fork server. Blocks for seconds; ``launch`` calls it too."""
    on_cpu = runs_on_cpu()
    prepare_environment(on_cpu=on_cpu)
    if on_cpu:
        multiprocessing.set_forkserver_preload([PRELOAD])
        forkserver.ensure_running()
    with collector_paused():
        import vllm.v1.engine.async_llm  # noqa: F401


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
        _import_model_class(options.model_path)
    config = AsyncEngineArgs(
        **{**options.engine_arguments(on_cpu=on_cpu), **others},
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=EXTENSION,
    ).create_engine_config()
    with _fork_server() if on_cpu else contextlib.nullcontext():
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Importing makes objects that stay; looking for garbage among them takes 2 seconds of 9."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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


def _import_model_class(model_path: str) -> None:
    """vLLM would look at the model's class in a process of its own, lest CUDA be initialised here.

    That takes 8 seconds, at the first use of an architecture on a machine.
    """
    from transformers import AutoConfig
    from vllm.model_executor.models import ModelRegistry

    if not Path(model_path).is_dir():
        return
    for architecture in AutoConfig.from_pretrained(model_path).architectures or []:
        known: Any = ModelRegistry.models.get(architecture)
        if hasattr(known, "load_model_cls"):
            ModelRegistry.register_model(architecture, known.load_model_cls())
