"""What a rollout engine is: the calls that workers make, what each waits for, and what never happens.

Nothing heavy is imported here, so a test, a bench or a plug-in can name the contract without vLLM or torch.
``tests/contract/test_rollout_engines.py`` checks it for every engine of ``factory.ENGINES``.

An example of one life::

    Engine = engine_class("vllm")
    Engine.prepare_process()                            # first thing in the process, while it has one thread
    engine = await Engine.start(EngineOptions(model_path="model", dtype="float32", max_length=512))
    sampling = SamplingChoice(max_new_tokens=64)
    samples = await engine.generate([5, 6], n=4, sampling=sampling, seed=7, request_id="group-1")
    await engine.stage(policy, Path("weights.bin"))     # beside generation
    report = await engine.swap(policy)                  # holds generation for milliseconds
    await engine.close()
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from rlserve.config.run import RunConfig
from rlserve.config.tables.rollout import RolloutConfig
from rlserve.models.adapter_files import base_of
from rlserve.records import PolicyVersion, Sample
from rlserve.weight_sync.device_memory import DeviceMemory


def _nobody_listens(_: str) -> None:
    pass


_DEFAULTS = RolloutConfig()
"""The defaults of ``[rollout]``, said there alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Everything that is fixed for the life of one engine."""

    model_path: str
    """Hugging Face checkpoint whose weights are the ``version`` that ``RolloutEngine.start`` names."""
    dtype: str
    """``"float32"`` or ``"bfloat16"``."""
    max_length: int
    """Prompt and completion together, in tokens."""
    kv_cache_bytes: int = _DEFAULTS.kv_cache_bytes
    """0 leaves the size to the engine."""
    max_num_seqs: int = _DEFAULTS.max_num_seqs
    """Sequences that run at once; more wait in this process."""
    tensor_parallel: int = _DEFAULTS.tensor_parallel
    gpu_memory_fraction: float = _DEFAULTS.gpu_memory_fraction
    enforce_eager: bool = _DEFAULTS.enforce_eager
    """Always so on CPU."""
    seed: int = 0
    adapter_scale: float = 0.0
    """Published weights are LoRA adapters, whose products times this are added to those of the checkpoint; 0: they are
    whole weights."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Arguments by the engine's own names (``rollout.options``)."""
    update_seconds: float = 300.0
    """Limit for each of: staging weights, swapping them, reading their digest."""
    stall_seconds: float = _DEFAULTS.stall_seconds
    """An engine with pending work, or a start, that neither answers nor computes for this long counts as dead."""
    report: Callable[[str], object] = field(default=_nobody_listens, compare=False)
    """Called with what a long start does, each time that changes: "loads the weights"."""

    @classmethod
    def from_config(cls, config: RunConfig, model_path: str) -> Self:
        """Options of a rollout worker of the run; ``model_path`` is a checkpoint, or an adapter of one."""
        rollout, model, lora = config.rollout, config.model, config.learner.lora
        return cls(
            model_path=base_of(model_path),
            adapter_scale=lora.scale if lora else 0.0,
            dtype=rollout.dtype,
            max_length=model.max_length,
            kv_cache_bytes=rollout.kv_cache_bytes,
            max_num_seqs=rollout.max_num_seqs,
            tensor_parallel=rollout.tensor_parallel,
            gpu_memory_fraction=rollout.gpu_memory_fraction,
            enforce_eager=rollout.enforce_eager,
            seed=config.seed,
            further=rollout.options,
            stall_seconds=rollout.stall_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingChoice:
    """How one request samples."""

    temperature: float = 1.0
    """0 is greedy; log-probabilities are then those at temperature 1."""
    top_p: float = 1.0
    max_new_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion. The one that ended it is its last token."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion. The token that completes one is its last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapReport:
    """One update of the weights."""

    version: int
    digest: str
    """Digest of the weights as they are served, read back after the swap."""
    stall_seconds: float
    """From the call to pause until generation resumed, including the rest of the running step."""
    held_seconds: float
    """From the end of that step until generation resumed: the time in which nothing was computed."""
    running_sequences: int
    """Sequences that were in the engine at that moment and continued under the new weights."""
    stage_seconds: float
    """Reading, checking and building, before the pause."""


class Generator(Protocol):
    """The part of an engine that episodes use."""

    async def generate(
        self, prompt_token_ids: Sequence[int], *, n: int, sampling: SamplingChoice, seed: int, request_id: str
    ) -> list[Sample]:
        """Sample ``n`` completions of one prompt. Completion i depends on ``seed + i`` alone, not on n or the load.

        Waits for a free slot, for the end of a swap, and for the last token. Log-probabilities are those of the
        distribution each token was drawn from (after temperature and top_p); ``policy_spans`` name the version of
        every token, also when the weights change midway. A completion cut by the context ends with LENGTH.
        Cancelling the call stops its work in the engine.

        Raises InvalidRequest for a request that the engine cannot serve (it never harms other requests),
        Unavailable when this one was lost and may be sent again, EngineDied.
        """
        ...


class RolloutEngine(Generator, Protocol):
    """One inference engine of a rollout worker, used from one event loop.

    Never: a token without its version and log-probability; a token from half-loaded weights; a prompt prefix reused
    that other weights computed; a call that hangs after the engine died. When the engine dies or hangs, every pending
    and later call raises EngineDied and ``died`` is set; the worker process then ends and is restarted.
    """

    @classmethod
    def prepare_process(cls) -> None:
        """Do what must be done while the process has a single thread, such as forking. May block for seconds."""
        ...

    @classmethod
    def warm_up(cls) -> None:
        """Import what ``start`` needs. Blocks; the worker calls it in a thread while the start model is being made."""
        ...

    @classmethod
    async def start(cls, options: EngineOptions, *, version: int = 0) -> Self:
        """Load the checkpoint, whose weights are ``version``. Raises DeadlineExceeded, ConfigError."""
        ...

    @property
    def version(self) -> int:
        """Version of the weights that sample now."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Rows of the model's embedding: token ids lie below."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine died or ``close`` was called."""
        ...

    @property
    def died(self) -> asyncio.Event:
        """Set when the engine is gone; not by ``close``."""
        ...

    @property
    def death(self) -> str:
        """Why the engine is gone; empty while it lives."""
        ...

    @property
    def process_ids(self) -> list[int]:
        """Processes of the engine, for supervision."""
        ...

    def read_with(self, tokenizer: Any) -> None:
        """Match ``SamplingChoice.stop`` in the text that this Hugging Face tokenizer makes of the samples."""
        ...

    def tokens_of(self, request_id: str) -> int:
        """Tokens sampled so far for ``request_id`` and ids below it (``request_id/...``), finished ones until
        ``forget``. A worker reports this number, and a lease whose number does not grow is returned."""
        ...

    def runs(self, request_id: str) -> bool:
        """Whether the engine works on a request at or below ``request_id``."""
        ...

    def forget(self, request_id: str) -> None:
        """Drop the counts of ``request_id``: ``tokens_of`` is not called for it again."""
        ...

    @property
    def device(self) -> str:
        """``device_name`` of the device whose memory ``stage`` takes weights from; empty when it reads files alone."""
        ...

    async def stage(self, policy: PolicyVersion, path: Path, memory: DeviceMemory | None = None) -> None:
        """Read, check and prepare a version from its flat file, while generation goes on.

        ``memory`` holds the same bytes on ``device``; the engine locks the file while it reads there, until the swap.
        Returns once the file may be deleted. Raises WeightsMismatch when bytes, manifest and model do not fit
        together; the served weights then stay as they are, and ``swap`` refuses this version. Raises EngineDied,
        DeadlineExceeded.
        """
        ...

    async def swap(self, policy: PolicyVersion) -> SwapReport:
        """Make the staged version the served one. Running sequences keep their KV cache and continue under it.

        Waits for the running step, holds all generation for the swap itself, then reads the digest of the served
        weights back while generation goes on. Once begun it is finished, also when the caller is cancelled.
        Raises NotReady when ``policy`` is not the staged version, EngineDied (also when the digest is not the
        published one), DeadlineExceeded.
        """
        ...

    async def close(self) -> None:
        """End the engine; pending calls raise EngineDied. Safe to call twice."""
        ...
