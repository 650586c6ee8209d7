"""Stage: one optimizer step of the learner, option by option: milliseconds, tokens per second, MFU, peak memory.

The last row is the output head alone over 64k tokens, forward and backward. MFU: see ``rlserve.models.throughput``.
"""

import gc
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rlserve.actors.learner.train.engine import LearnerEngine, blank
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.grpo import Grpo
from rlserve.algorithms.head import Head, Query
from rlserve.algorithms.masked import denominator
from rlserve.algorithms.token_scores import token_scores
from rlserve.bench.gpu.models import checkpoint
from rlserve.bench.gpu.rows import Row
from rlserve.bench.gpu.sizes import SHAPES, Shape, Sizes
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.models.throughput import GIB, FlopCounter, peak_bytes, peak_flops

HEAD_ROWS = 4
"""Rows of tokens in the head's measurement: 64k tokens on a GPU."""
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


COMPILED = {"compile": True}
PACKED = {"compile": True, "packing": True}
SAVING = {"gradient_checkpointing": True}
CASES = (
    Case("small"),
    Case("small, compiled, packed", settings=PACKED),
    Case("large, compiled, packed, checkpointing", large=True, settings=PACKED | SAVING),
    Case("large, compiled, one sequence, checkpointing", True, True, COMPILED | SAVING),
    # Last: its kernels stay in the model's classes, where torch.compile fails on them.
    Case("small, liger, packed", settings={"kernels": "liger", "packing": True}),
)


def measure(sizes: Sizes, out: Path) -> Iterator[Row]:
    """One row a case; a case that fails says why, and the next one runs."""
    for case in CASES:
        name = sizes.large if case.large else sizes.small
        try:
            yield {"what": case.what, **_measure(case, SHAPES[name], checkpoint(out, name, sizes.dtype), sizes)}
        # Of any kind: out of memory, an option that this machine lacks, a kernel that does not compile.
        except Exception as error:
            yield {"what": case.what, "failed": f"{type(error).__name__}: {error}"[:300]}
        _free_memory()
    yield {"what": "head alone", **_head(SHAPES[sizes.large], sizes)}


def _free_memory() -> None:
    gc.collect()
    torch._dynamo.reset()  # compiled layers hold the model that they were made for
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


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
        flops = FlopCounter(engine.module)(torch.full((tokens // length,), length))
        peak = peak_flops(engine.rank_info.device, engine.dtype)
        return {
            "parameters": sum(p.numel() for p in engine.module.parameters()),
            "step_ms": 1000 * seconds_each,
            "first_step_ms": 1000 * first,
            "tokens_per_second": tokens / seconds_each,
            "mfu": flops / seconds_each / peak if peak else 0.0,
            "peak_gib": peak_bytes(engine.rank_info.device) / GIB,
        }
    finally:
        engine.close()


def _head(shape: Shape, sizes: Sizes) -> dict[str, Any]:
    """Log-probabilities and entropies of 64k tokens, and the gradients of both operands."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens, dtype = HEAD_ROWS * sizes.row_tokens, getattr(torch, sizes.dtype)
    hidden = torch.randn(tokens, shape.hidden, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape.vocabulary, shape.hidden, device=device, dtype=dtype).mul_(0.02).requires_grad_()
    query = Query(ids=torch.randint(0, shape.vocabulary, (tokens,), device=device), entropy=True)
    head = Head(weight=weight, compiled=device.type == "cuda")
    operands = peak_bytes(device)

    def score() -> None:
        token_scores(hidden, head, query)[0].mean().backward()
        hidden.grad = weight.grad = None

    _, *seconds = [_seconds(score) for _ in range(sizes.steps + 1)]
    beside = (peak_bytes(device) - operands) / GIB
    return {"tokens": tokens, "ms": 1000 * statistics.median(seconds), "peak_gib_beside_operands": beside}


def _step(engine: LearnerEngine, batches: list[TokenBatch]) -> None:
    algorithm = Grpo(GrpoConfig())
    sequences = sum(int(batch.sequence_ids.max()) + 1 for batch in batches)
    total = denominator(batches, num_sequences=sequences)
    engine.step(batches, loss=lambda outputs, b: algorithm.loss(outputs, b, total), lr=1e-6, needs=algorithm.needs)


def _batch(tokens: int, length: int, vocabulary: int, seed: int, config: LearnerConfig) -> TokenBatch:
    """``tokens`` in sequences of ``length``: a row each, or all in one row where the learner packs."""
    generator = torch.Generator().manual_seed(seed)
    rows = tokens // length
    batch = blank(rows=rows, width=length, trained=length - int(length * PROMPT_SHARE), packed=config.packing)
    mask, shape = batch.loss_mask, batch.token_ids.shape
    advantages = torch.randn(rows, generator=generator).repeat_interleave(length).view(shape)
    return replace(
        batch,
        token_ids=torch.randint(0, vocabulary, shape, generator=generator),
        # About that of a random model: the logarithm of one over the vocabulary.
        behavior_logprobs=mask * -math.log(vocabulary),
        advantages=mask * advantages,
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
