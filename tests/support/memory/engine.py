"""A real vLLM engine that fills its KV cache and stages a version; prints plan and memory of all its processes.

python -m tests.support.memory.engine MODEL MAX_LENGTH KV_CACHE_BYTES
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.factory import engine_class
from rlserve.engines.vllm.options import CPU_BATCH_TOKENS
from rlserve.idle_threads import sleep_when_idle
from rlserve.memory.formulas import cpu_engine
from rlserve.memory.shape import ModelShape
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.publisher import Publisher

DTYPE = "float32"


def held() -> int:
    """Bytes of this process and all below it; a page that several share counts once (PSS)."""
    me = psutil.Process()
    return sum(process.memory_full_info().pss for process in (me, *me.children(recursive=True)))


async def measure(path: str, max_length: int, kv_cache: int) -> dict[str, Any]:
    phases: list[str] = []
    engine = await engine_class("vllm").start(
        EngineOptions(
            model_path=path, dtype=DTYPE, max_length=max_length, kv_cache_bytes=kv_cache, report=phases.append
        )
    )
    try:
        sampling = SamplingChoice(max_new_tokens=4)
        prompts = [[5 + i] * (max_length - 8) for i in range(8)]
        await asyncio.gather(
            *(engine.generate(p, n=1, sampling=sampling, seed=0, request_id=f"r{i}") for i, p in enumerate(prompts))
        )
        published = Publisher(SHARED_MEMORY, run_id="memory")
        try:
            policy = published.publish(load_file(f"{path}/model.safetensors").items(), 1)
            latest = published.latest()
            assert latest is not None
            await engine.stage(policy, latest.path)
            # A learner publishes; here this process does, and holds the file on top.
            measured = held() - latest.flat.size
            await engine.swap(policy)
        finally:
            published.close()
    finally:
        await engine.close()
    shape = ModelShape.read(Path(path))
    assert shape is not None
    plan = cpu_engine(shape, DTYPE, kv_cache=kv_cache, step_tokens=max(CPU_BATCH_TOKENS, max_length))
    return {"planned": plan.total, "measured": measured, "phases": phases}


def main() -> None:
    sleep_when_idle()
    engine_class("vllm").prepare_process()
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
