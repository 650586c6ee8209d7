"""vLLM plug-in: registers the weight-transfer engine, and the calls that the rollout worker makes to vLLM's workers.

Registered as entry point ``vllm.general_plugins``, so every process that vLLM starts runs ``register``.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlserve.engines.vllm.link import JobOutcome, JobState
from rlserve.engines.vllm.parent_watch import follow_owner
from rlserve.engines.vllm.starting.titles import show_phases
from rlserve.errors import WeightsMismatch
from rlserve.weight_sync.device_memory import DeviceMemory

T = TypeVar("T")

BACKEND = "rlserve"
"""Name of rlserve's weight-transfer engine in vLLM's registry."""
EXTENSION = "rlserve.engines.vllm.plugin.WeightCalls"
"""Class that vLLM mixes into its workers, so that ``collective_rpc`` finds its methods."""


_RELOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"
_WITHOUT_WEIGHTS = ("RotaryEmbedding", "ParallelLMHead")
"""Endings of the names of layers that a reload rightly finds no weights for: computed from the configuration, or tied
to the embedding. A head that is not tied and gets none is an error of ``staged_weights``."""


def register() -> None:
    """Register the weight-transfer engine, and prepare this process: AMX tiles on, end with the rollout worker."""
    logger = logging.getLogger(_RELOAD_LOGGER)
    if is_news not in logger.filters:
        logger.addFilter(is_news)
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "rlserve.engines.vllm.staged_weights", "StagedWeightEngine"
        )
    if torch.cpu._is_amx_tile_supported():
        # Linux grants the tile registers on request; without it bf16 attention dies of SIGILL.
        torch.cpu._init_amx()
    follow_owner()
    show_phases()


def is_news(record: logging.LogRecord) -> bool:
    """False for the warnings that vLLM logs at every reload although nothing is wrong."""
    message = record.getMessage()
    return not any(message.endswith(f"{layer}: Failed to load weights") for layer in _WITHOUT_WEIGHTS)


class Job(Generic[T]):
    """Work on one version of the weights in a thread of vLLM's worker, whose engine steps on meanwhile.

    Begun at construction; the rollout worker polls ``state`` from its own process.
    """

    def __init__(self, version: int, work: Callable[[], T]) -> None:
        self.version = version
        self.result: T | None = None
        """None while it runs, and when it failed."""
        self._outcome = JobOutcome.DONE
        self._error = ""
        self._seconds = 0.0
        # Handed over and not kept: it holds tensors of the size of the model.
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"rlserve-weights-{version}", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        started = time.monotonic()
        try:
            self.result = work()
        except WeightsMismatch as error:
            self._outcome, self._error = JobOutcome.MISMATCH, str(error)
        except Exception as error:  # reported to the rollout worker, which decides
            self._outcome, self._error = JobOutcome.FAILED, f"{type(error).__name__}: {error}"
        self._seconds = time.monotonic() - started

    @property
    def is_done(self) -> bool:
        """True once it returned or raised."""
        return not self._thread.is_alive()

    def state(self) -> JobState:
        """Present state, with the result if that is text."""
        # Asked first: the thread writes its outcome before it ends, so what is read after is final.
        is_done = self.is_done
        return JobState(
            version=self.version,
            outcome=(self._outcome if is_done else JobOutcome.RUNNING).value,
            error=self._error,
            result=self.result if is_done and isinstance(self.result, str) else "",
            seconds=self._seconds,
        )


class WeightCalls:
    """Methods that the rollout worker calls by ``collective_rpc``. Those that begin a job return at once."""

    weight_transfer_engine: Any

    def stage_weights(self, policy: dict[str, Any], path: str, memory: dict[str, Any] | None) -> None:
        """Begin to stage a version from its flat file, or from a ``DeviceMemory`` with the same bytes."""
        self.weight_transfer_engine.stage(policy, Path(path), None if memory is None else DeviceMemory(**memory))

    def staging_state(self) -> JobState:
        """State of the staging job."""
        return _state_of(self.weight_transfer_engine.staging)

    def begin_digest(self) -> None:
        """Begin to digest the weights that were served last."""
        self.weight_transfer_engine.begin_digest()

    def digest_state(self) -> JobState:
        """State of the digesting job; ``result`` is the digest."""
        return _state_of(self.weight_transfer_engine.digesting)

    def update_method(self) -> tuple[str, str]:
        """``"exchange"``, ``"copy"`` or ``"reload"``; and the device from whose memory ``stage`` takes weights."""
        return self.weight_transfer_engine.method, self.weight_transfer_engine.memory_device


def _state_of(job: Job[Any] | None) -> JobState:
    if job is None:
        raise RuntimeError("this job was not begun")
    return job.state()
