"""Does every token carry the version that sampled it, and the log-probability under that version's weights?

Two versions take turns while sequences run. They differ in the output head alone, so the KV cache is right under both,
and a Hugging Face forward pass scores each token under either version.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlserve.bench.gpu.sizes import Sizes
from rlserve.engines.base import SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.records import Sample
from rlserve.weight_sync.publisher import Publisher

HEAD = "lm_head.weight"
CLEAR_NATS = 1.0
"""Tokens whose log-probabilities differ by more tell the versions apart, whatever bfloat16 rounds."""
SWAPS = 4
SEQUENCES = 64
"""Sequences that are scored; any value will do that makes thousands of tokens."""
SCORED_AT_ONCE = 4
"""Sequences in one forward pass: their logits over the whole vocabulary fit into memory beside the model."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sequences that ran while versions changed. Odd versions have the head ``odd_head``."""

    prompts: Sequence[Sequence[int]]
    samples: Sequence[Sample]
    odd_head: Tensor


async def sample_under_swaps(
    engine: VllmEngine, publisher: Publisher, weights: Mapping[str, Tensor], sizes: Sizes
) -> Sampled:
    """Run sequences while heads are swapped. The first swap, to an even version, restores the start weights."""
    order = torch.randperm(len(weights[HEAD]), generator=torch.Generator().manual_seed(1))
    odd_head = weights[HEAD][order].contiguous()
    first = engine.version + engine.version % 2 + 2
    await _swap(engine, publisher, weights, first)
    prompts = [[2 + i % 60, 3, 4] for i in range(min(SEQUENCES, sizes.sequences))]
    sampling = SamplingChoice(max_new_tokens=sizes.new_tokens)
    running = [
        asyncio.create_task(engine.generate(p, n=1, sampling=sampling, seed=i, request_id=f"stamp-{i}"))
        for i, p in enumerate(prompts)
    ]
    for version in range(first + 1, first + 1 + SWAPS):
        await _swap(engine, publisher, {**weights, HEAD: odd_head} if version % 2 else weights, version)
    samples = [found[0] for found in await asyncio.gather(*running)]
    return Sampled(prompts, samples, odd_head)


async def _swap(engine: VllmEngine, publisher: Publisher, weights: Mapping[str, Tensor], version: int) -> None:
    policy = await asyncio.to_thread(publisher.publish, weights.items(), version)
    await engine.stage(policy, publisher.get(version).path)
    await engine.swap(policy)


def compare(path: str, sampled: Sampled, dtype: str) -> dict[str, Any]:
    """Tokens, those that tell the versions apart, those of them with a wrong version, errors in nats."""
    even, odd = _scores(path, sampled, dtype)  # [B, T] each
    samples = sampled.samples
    reported = torch.tensor([sample.logprobs.tolist() for sample in samples])
    stamps = torch.tensor([[s.version for s in sample.policy_spans for _ in range(s.length)] for sample in samples])
    is_odd = stamps % 2 == 1
    stamped, other = torch.where(is_odd, odd, even), torch.where(is_odd, even, odd)
    clear = (even - odd).abs() > CLEAR_NATS
    wrong = clear & ((reported - other).abs() < (reported - stamped).abs())
    errors = (reported - stamped).abs().flatten()
    return {
        "tokens": stamps.numel(),
        "versions": len(stamps.unique()),
        "clear": int(clear.sum()),
        "wrong": int(wrong.sum()),
        "mean_error_nats": float(errors.mean()),
        "max_error_nats": float(errors.max()),
    }


@torch.no_grad()
def _scores(path: str, sampled: Sampled, dtype: str) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[B, T]`` of the sampled tokens under the even and under the odd head."""
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(path, dtype=getattr(torch, dtype)).to(device).eval()
    heads = model.lm_head.weight, sampled.odd_head.to(device)
    pairs = zip(sampled.prompts, sampled.samples, strict=True)
    rows = torch.tensor([[*prompt, *sample.token_ids.tolist()] for prompt, sample in pairs], device=device)
    start = len(sampled.prompts[0])
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for ids in rows.split(SCORED_AT_ONCE):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, start - 1 : -1]
        for scores, head in zip(found, heads, strict=True):
            logprobs = (hidden @ head.T).float().log_softmax(-1)
            scores.append(logprobs.gather(-1, ids[:, start:, None])[..., 0].cpu())
    return torch.cat(found[0]), torch.cat(found[1])
