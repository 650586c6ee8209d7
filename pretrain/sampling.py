"""Samples from a Hugging Face model in plain torch: batched, with a KV cache, without finished rows.

For accuracy checks during a stage; rollouts use vLLM. Letters: B rows, T prompt tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> list[list[int]]:
    """One completion per prompt, without its end token; ``temperature`` 0 is greedy."""
    completions: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    input_ids, mask = _pad_left(prompts)
    # Padding on the left shifts a prompt's columns, not its positions.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,  # logits of the whole prompt would take T times the memory
        ).logits[:, -1]
        tokens = _draw(logits, temperature, generator)
        alive = (tokens != eos_id).tolist()
        for row, token, lives in zip(rows, tokens.tolist(), alive, strict=True):
            if lives:
                completions[row].append(token)
        if not any(alive):
            break
        if not all(alive):
            # Drop finished rows from everything that has a row dimension, the KV cache included.
            kept = torch.tensor(alive).nonzero().squeeze(1)
            rows = [row for row, lives in zip(rows, alive, strict=True) if lives]
            tokens, mask, positions = tokens[kept], mask[kept], positions[kept]
            # Ended rows leave the cache too: the batch shrinks, and the last, longest completions cost little.
            cache.batch_select_indices(kept)
        input_ids = tokens.unsqueeze(1)
        # Attention also covers the cache: the mask grows with it.
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return completions


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token per row, ``[B, V] -> [B]``."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    # float32: in bfloat16 the probabilities of a large vocabulary do not add up to 1.
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def _pad_left(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, ``[B, T]`` each; padded on the left, so that the last column is the end of every prompt."""
    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids, mask
