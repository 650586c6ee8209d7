"""Tokens a second of the rollout engine against plain calls of vLLM: same engine, prompts and lengths, in turn."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rlserve.bench.tiny_model import save_tiny_model
from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine

TARGET = 0.9
"""Least share of plain vLLM's rate: requests, log-probabilities and version spans may take a tenth."""
# Any values of this size will do: many sequences in a batch, and enough tokens that the start of one does not count.
PROMPTS, SAMPLES, TOKENS = 32, 4, 64


def measure(*, rounds: int = 5) -> dict[str, float]:
    """Medians over ``rounds`` of 32 prompts with 4 samples of 64 tokens each, log-probabilities on, float32."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_measure(save_tiny_model(Path(directory)), rounds))


async def _measure(path: str, rounds: int) -> dict[str, float]:
    options = EngineOptions(model_path=path, dtype="float32", max_length=256)
    engine = await VllmEngine.start(options)
    try:
        ours, plain = [], []
        for number in range(rounds + 1):
            ours.append(await _rate(lambda i, n=number: _ours(engine, i, n)))
            plain.append(await _rate(lambda i, n=number: _plain(engine, i, n)))
    finally:
        await engine.close()
    # The first round pays for warming up.
    ratios = [a / b for a, b in zip(ours[1:], plain[1:], strict=True)]
    return {
        "rollout_tokens_per_second": statistics.median(ours[1:]),
        "plain_tokens_per_second": statistics.median(plain[1:]),
        "ratio": statistics.median(ratios),
        "target_at_least": TARGET,
    }


async def _rate(generate: Any) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(generate(i) for i in range(PROMPTS)))
    return PROMPTS * SAMPLES * TOKENS / (time.perf_counter() - started)


async def _ours(engine: VllmEngine, prompt: int, number: int) -> None:
    sampling = SamplingChoice(max_new_tokens=TOKENS)
    request_id = f"ours-{number}-{prompt}"
    await engine.generate(_prompt(prompt), n=SAMPLES, sampling=sampling, seed=prompt, request_id=request_id)


async def _plain(engine: VllmEngine, prompt: int, number: int) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        n=SAMPLES,
        max_tokens=TOKENS,
        ignore_eos=True,
        logprobs=0,
        seed=prompt,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    request = {"prompt_token_ids": _prompt(prompt)}
    async for _ in engine.llm.generate(request, parameters, request_id=f"plain-{number}-{prompt}"):
        pass


def _prompt(number: int) -> list[int]:
    return [1 + (number * 7 + i) % 60 for i in range(12)]
