"""Stage: one optimizer step of the learner, option by option: milliseconds, tokens per second, MFU, peak memory.

MFU is the model's own operations over the time and the card's rate in bfloat16. They are, for one token, 6 for each
parameter that a matrix product uses (2 forward, 4 backward; what gradient checkpointing computes again does not count)
and ``6 * layers * heads * head_dim * length`` for causal attention over sequences of that length.
"""

import gc
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.grpo import Grpo
from rlserve.algorithms.masked import denominator
from rlserve.bench.gpu.models import checkpoint
from rlserve.bench.gpu.rows import Row
from rlserve.bench.gpu.sizes import SHAPES, Shape, Sizes
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.learner import LearnerConfig

BF16_FLOPS = 989e12
"""Dense bfloat16 operations per second of an H100 or H200 (SXM), by NVIDIA's data sheet."""
PROMPT_SHARE = 0.125
"""Share of a sequence that is prompt, whose tokens need no log-probability."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    what: str
    large: bool = False
    one_sequence: bool = False
    """A row holds one long sequence instead of several short ones."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Added to ``[learner]``."""


CASES = (
    Case("0.6B, rows of one sequence"),
    Case("0.6B, gradient checkpointing", settings={"gradient_checkpointing": True}),
    Case("4B, gradient checkpointing", large=True, settings={"gradient_checkpointing": True}),
    Case("4B, one sequence a row, gradient checkpointing", True, True, {"gradient_checkpointing": True}),
)


def measure(sizes: Sizes, out: Path) -> Iterator[Row]:
    """One row a case; a case that fails says why, and the next one runs."""
    for case in CASES:
        name = sizes.large if case.large else sizes.small
        try:
            yield {"what": case.what, **_measure(case, SHAPES[name], checkpoint(out, name, sizes.dtype), sizes)}
        except (RuntimeError, ValueError) as error:  # out of memory, or an option that this machine lacks
            yield {"what": case.what, "failed": f"{type(error).__name__}: {error}"[:300]}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measure(case: Case, shape: Shape, path: str, sizes: Sizes) -> dict[str, Any]:
    settings = {"dtype": sizes.dtype, "tokens_per_micro_batch": sizes.row_tokens, "lr": 1e-6, **case.settings}
    config = LearnerConfig.model_validate(settings)
    engine = LearnerEngine(path, config, seed=0)
    try:
        length = sizes.row_tokens if case.one_sequence else sizes.sequence_tokens
        batches = [_batch(sizes.row_tokens, length, shape.vocabulary, i, config) for i in range(sizes.micro_batches)]
        # The first step compiles, allocates and fills caches.
        first, *seconds = [_seconds(lambda: _step(engine, batches)) for _ in range(sizes.steps + 1)]
        seconds_each = statistics.median(seconds)
        tokens = sizes.row_tokens * sizes.micro_batches
        return {
            "parameters": sum(p.numel() for p in engine.module.parameters()),
            "step_ms": 1000 * seconds_each,
            "first_step_ms": 1000 * first,
            "tokens_per_second": tokens / seconds_each,
            "mfu": flops(shape, length) * tokens / seconds_each / BF16_FLOPS,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0,
        }
    finally:
        engine.close()


def flops(shape: Shape, length: int) -> float:
    """Operations of forward and backward pass for one token of a sequence of ``length``."""
    attention = shape.heads * shape.head_dim
    layer = shape.hidden * (2 * attention + 2 * shape.kv_heads * shape.head_dim + 3 * shape.ffn)
    return 6 * (shape.layers * layer + shape.vocabulary * shape.hidden) + 6 * shape.layers * attention * length


def _step(engine: LearnerEngine, batches: list[TokenBatch]) -> None:
    algorithm = Grpo(GrpoConfig())
    sequences = sum(int(batch.sequence_ids.max()) + 1 for batch in batches)
    total = denominator(batches, num_sequences=sequences)
    engine.step(batches, loss=lambda outputs, b: algorithm.loss(outputs, b, total), lr=1e-6, needs=algorithm.needs)


def _batch(tokens: int, length: int, vocabulary: int, seed: int, config: LearnerConfig) -> TokenBatch:
    """``tokens`` in sequences of ``length``: a row each, or all in one row where the learner packs."""
    generator = torch.Generator().manual_seed(seed)
    rows = tokens // length
    shape = (1, rows * length) if config.packing else (rows, length)
    positions = torch.arange(length).repeat(rows).view(shape)
    mask = (positions >= max(1, int(length * PROMPT_SHARE))).float()
    advantages = torch.randn(rows, generator=generator).repeat_interleave(length).view(shape)
    return TokenBatch(
        token_ids=torch.randint(0, vocabulary, shape, generator=generator),
        position_ids=positions,
        sequence_ids=torch.arange(rows).repeat_interleave(length).view(shape),
        loss_mask=mask,
        # About that of a random model: the logarithm of one over the vocabulary.
        behavior_logprobs=mask * -float(torch.tensor(float(vocabulary)).log()),
        advantages=mask * advantages,
        lag=torch.zeros(shape, dtype=torch.int64),
    )


def _seconds(work: Any) -> float:
    _wait_for_device()
    started = time.perf_counter()
    work()
    _wait_for_device()
    return time.perf_counter() - started


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # kernels run asynchronously: the clock would stop before they end
