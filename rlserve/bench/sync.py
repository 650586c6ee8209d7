"""How long generation stalls for new weights, against a bare loop over vLLM's own calls.

The bare loop pauses generation and then reads, checks and loads the weights. The rollout engine reads and checks them
during generation, and pauses for the exchange alone. Engine, weights and load are the same, in one run.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rlserve.bench.tiny_model import save_tiny_model
from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.observability.metrics import percentile
from rlserve.records import PolicyVersion
from rlserve.weight_sync.publisher import Publisher

TARGET_MS = 50.0
"""Longest stall that is aimed at: about a decoding step of a large model, so that swaps cost next to nothing."""
SEQUENCES = 64
"""Sequences that run during a swap. Any value will do that keeps the engine busy."""
HIDDEN, LAYERS = 512, 3
"""5M parameters, so that loading takes long enough to be measured, and the model is still made in a second."""
WARM_SECONDS = 1.0
"""Until all sequences are decoding. Any value of this size will do."""


def measure(*, swaps: int = 15) -> dict[str, float]:
    """Milliseconds of stall over ``swaps`` updates of a 5M-parameter float32 model with 64 running sequences."""
    with tempfile.TemporaryDirectory() as directory:
        path = save_tiny_model(Path(directory) / "model", hidden=HIDDEN, layers=LAYERS, vocabulary=512)
        return asyncio.run(_measure(path, Path(directory), swaps))


async def _measure(path: str, directory: Path, swaps: int) -> dict[str, float]:
    from safetensors.torch import load_file

    weights = load_file(Path(path) / "model.safetensors")
    publisher = Publisher(directory, run_id="bench")
    engine = await VllmEngine.start(EngineOptions(model_path=path, dtype="float32", max_length=512))
    ours: list[float] = []
    held: list[float] = []
    bare: list[float] = []
    try:
        async with _load(engine):
            for version in range(1, swaps + 1):
                policy = publisher.publish([(n, t * (1 + 1e-3)) for n, t in weights.items()], version)
                await engine.stage(policy, publisher.get(version).path)
                report = await engine.swap(policy)
                ours.append(report.stall_seconds)
                held.append(report.held_seconds)
            await engine.choose_update_method("reload")  # vLLM's own loading, for the bare loop
            for version in range(swaps + 1, 2 * swaps + 1):
                policy = publisher.publish([(n, t * (1 - 1e-3)) for n, t in weights.items()], version)
                bare.append(await _bare_update(engine, policy, publisher.get(version).path))
    finally:
        await engine.close()
        publisher.close()
    return {
        "parameters": float(sum(t.numel() for t in weights.values())),
        "stall_ms_p50": 1000 * percentile(ours, 0.5),
        "stall_ms_p99": 1000 * percentile(ours, 0.99),
        "held_ms_p50": 1000 * percentile(held, 0.5),
        "bare_stall_ms_p50": 1000 * percentile(bare, 0.5),
        "ratio_to_bare": percentile(ours, 0.5) / percentile(bare, 0.5),
        "target_ms_below": TARGET_MS,
    }


async def _bare_update(engine: VllmEngine, policy: PolicyVersion, path: Path) -> float:
    """Seconds of stall of the bare loop; polls for the end of staging and the digest are no part of it."""
    started = time.perf_counter()
    await engine.llm.pause_generation(mode="keep", clear_cache=False)
    paused = time.perf_counter()
    await engine.stage(policy, path)
    report = await engine.swap(policy)
    return paused - started + report.stage_seconds + report.stall_seconds


@contextlib.asynccontextmanager
async def _load(engine: VllmEngine) -> AsyncIterator[None]:
    """Keep SEQUENCES sequences running while the block lasts."""

    async def keep_one_running(number: int) -> None:
        for round_ in range(10_000):  # cancelled at the end of the block, long before that
            await engine.generate(
                [1 + number % 60, 2, 3],
                n=1,
                sampling=SamplingChoice(max_new_tokens=400),
                seed=number,
                request_id=f"load-{number}-{round_}",
            )

    tasks = [asyncio.create_task(keep_one_running(number)) for number in range(SEQUENCES)]
    await asyncio.sleep(WARM_SECONDS)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
