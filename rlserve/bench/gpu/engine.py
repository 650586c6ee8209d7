"""Stage: the rollout engine with its defaults (compiled, CUDA graphs): start, tokens per second, swaps under load.

One process for all, as a cold start takes minutes. Each swap under load changes a tenth of all weights.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlserve.bench.gpu.models import checkpoint
from rlserve.bench.gpu.rows import Row
from rlserve.bench.gpu.sizes import SHAPES, Sizes
from rlserve.bench.gpu.stamps import compare, sample_under_swaps
from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.publisher import Publisher

PROMPT_TOKENS = 64
"""About a question of GSM8K."""
SAMPLES = 8
"""Completions of a prompt: a group."""
SEED = 7  # any value will do
Generate = Callable[[VllmEngine, list[int], str, Sizes], Coroutine[Any, Any, None]]
WARM_SECONDS = 2.0
"""Until all sequences are decoding."""


def measure(sizes: Sizes, out: Path) -> Iterator[Row]:
    """Rows of the start, both rates, and each swap."""
    path = checkpoint(out, sizes.small, sizes.dtype)
    VllmEngine.prepare_process()
    loop = asyncio.new_event_loop()
    try:
        # Row by row: the stage may be cut off, and what it measured until then counts.
        rows = _measure(sizes, out, path)
        while True:
            try:
                yield loop.run_until_complete(anext(rows))
            except StopAsyncIteration:
                return
    finally:
        loop.close()


async def _measure(sizes: Sizes, out: Path, path: str) -> AsyncIterator[Row]:
    started = time.monotonic()
    engine = await VllmEngine.start(
        EngineOptions(
            model_path=path,
            dtype=sizes.dtype,
            max_length=PROMPT_TOKENS + sizes.new_tokens,
            max_num_seqs=sizes.sequences,
            kv_cache_bytes=sizes.kv_cache_bytes,
        )
    )
    publisher = Publisher(SHARED_MEMORY, run_id="bench", fallback=out)
    try:
        seconds = time.monotonic() - started
        yield {"what": "start", "model": sizes.small, "seconds": seconds, "swaps_by": engine.method}
        yield await _rates(engine, sizes)
        weights = _weights(Path(path))
        async for row in _swaps(engine, publisher, weights, sizes):
            yield row
        sampled = await sample_under_swaps(engine, publisher, weights, sizes)
    finally:
        await engine.close()
        publisher.close()
    yield {"what": "stamps under swaps", **compare(path, sampled, sizes.dtype)}


async def _rates(engine: VllmEngine, sizes: Sizes) -> Row:
    words = SHAPES[sizes.small].vocabulary - 2
    count = sizes.sequences // SAMPLES
    prompts = [[2 + (17 * p + i) % words for i in range(PROMPT_TOKENS)] for p in range(count)]
    sides: dict[Generate, list[float]] = {_ours: [], _plain: []}
    for number in range(sizes.rounds + 1):
        for generate, rates in sides.items():
            started = time.perf_counter()
            await asyncio.gather(
                *(generate(engine, prompt, f"{number}-{i}", sizes) for i, prompt in enumerate(prompts))
            )
            rates.append(count * SAMPLES * sizes.new_tokens / (time.perf_counter() - started))
    # The first round warms both up.
    ours, plain = (statistics.mean(rates[1:]) for rates in sides.values())
    return {"what": "tokens per second", "engine": ours, "plain_vllm": plain, "ratio": ours / plain}


async def _ours(engine: VllmEngine, prompt: list[int], request_id: str, sizes: Sizes) -> None:
    sampling = SamplingChoice(max_new_tokens=sizes.new_tokens)
    await engine.generate(prompt, n=SAMPLES, sampling=sampling, seed=SEED, request_id=f"ours-{request_id}")


async def _plain(engine: VllmEngine, prompt: list[int], request_id: str, sizes: Sizes) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        n=SAMPLES,
        max_tokens=sizes.new_tokens,
        ignore_eos=True,
        logprobs=0,
        seed=SEED,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    async for _ in engine.llm.generate({"prompt_token_ids": prompt}, parameters, request_id=f"plain-{request_id}"):
        pass


async def _swaps(
    engine: VllmEngine, publisher: Publisher, weights: Mapping[str, Tensor], sizes: Sizes
) -> AsyncIterator[Row]:
    async with _load(engine, sizes):
        for version in range(1, sizes.swaps + 1):
            changed = ((name, _changed(tensor, version)) for name, tensor in weights.items())
            started = time.perf_counter()
            policy = await asyncio.to_thread(publisher.publish, changed, version)
            published = time.perf_counter()
            await engine.stage(policy, publisher.get(version).path)
            staged = time.perf_counter()
            report = await engine.swap(policy)
            yield {
                "what": f"swap {version}",
                "gib": policy.total_bytes / 2**30,
                "publish_seconds": published - started,
                "stage_seconds": staged - published,
                "stall_ms": 1000 * report.stall_seconds,
                "held_ms": 1000 * report.held_seconds,
                "digest_seconds": time.perf_counter() - staged - report.stall_seconds,
                "running": report.running_sequences,
            }


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _changed(tensor: Tensor, version: int) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[version % 10 :: 10] *= 1.01
    return changed


@contextlib.asynccontextmanager
async def _load(engine: VllmEngine, sizes: Sizes) -> AsyncIterator[None]:
    """Keep all sequences running while the block lasts."""

    async def keep_running(number: int) -> None:
        sampling = SamplingChoice(max_new_tokens=sizes.new_tokens)
        round_ = 0
        while True:
            round_ += 1
            await engine.generate(
                [2 + number, 3], n=1, sampling=sampling, seed=number, request_id=f"load-{number}-{round_}"
            )

    tasks = [asyncio.create_task(keep_running(number)) for number in range(sizes.sequences)]
    await asyncio.sleep(WARM_SECONDS)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
