"""How long generation stands still for new weights, against a bare loop over vLLM's own calls.

The bare loop pauses, and only then reads, checks and loads the weights; ours reads and checks beside generation
and pauses for the exchange alone. Same engine, weights and load, in one run.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rlserve.actors.rollout.engine import VllmEngine
from rlserve.bench.tiny_model import save_tiny_model
from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.observability.metrics import percentile
from rlserve.policy.publisher import Publisher
from rlserve.records import PolicyVersion

TARGET_MS = 50.0
SEQUENCES = 64
HIDDEN, LAYERS = 512, 3
"""5M parameters."""


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
            await engine.choose_update_method("reload")
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
    """Seconds of stall. Asking whether staging is done, and the digest afterwards, are ours and are not counted."""
    started = time.perf_counter()
    await engine.llm.pause_generation(mode="keep", clear_cache=False)
    paused = time.perf_counter()
    await engine.stage(policy, path)
    report = await engine.swap(policy)
    return paused - started + report.stage_seconds + report.stall_seconds


@contextlib.asynccontextmanager
async def _load(engine: VllmEngine) -> AsyncIterator[None]:
    """Sequences that never run out while the block lasts."""

    async def keep_one_running(number: int) -> None:
        for round_ in range(10_000):
            await engine.generate(
                [1 + number % 60, 2, 3],
                n=1,
                sampling=SamplingChoice(max_new_tokens=400),
                seed=number,
                request_id=f"load-{number}-{round_}",
            )

    tasks = [asyncio.create_task(keep_one_running(number)) for number in range(SEQUENCES)]
    await asyncio.sleep(1.0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
