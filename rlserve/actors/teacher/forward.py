"""Scoring engine: a batched forward pass of transformers. The faster one on CPU, and exact at any temperature.

Shape letters: B sequences, T tokens, S scored ones of a sequence, K entries of the top, V vocabulary.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlserve.actors.teacher.scoring import Query, Scores, blaming_checkpoint
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.cpu_kernels import set_up_process, short_attention


class ForwardEngine:
    """One model in one thread."""

    def __init__(self, model_path: str, *, dtype: str, torch_threads: int = 0, num_tokens: int | None = None) -> None:
        """``num_tokens`` of the model's columns are the tokenizer's; the others are padding and never in a top k."""
        from transformers import AutoModelForCausalLM

        if torch_threads:
            torch.set_num_threads(torch_threads)
        set_up_process()
        self._num_tokens = num_tokens
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=getattr(torch, dtype), trust_remote_code=False
        )
        self._model = model.eval().requires_grad_(False).to(self._device)
        # One thread: batches run one by one, and the event loop stays free for heartbeats.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher-forward")

    @property
    def vocabulary_size(self) -> int:
        """See ``ScoringEngine``."""
        return int(self._model.config.get_text_config().vocab_size)

    def check(self, query: Query) -> None:
        """Accept every query."""

    async def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See ``ScoringEngine``."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._score, queries)

    async def close(self) -> None:
        """See ``ScoringEngine``."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @torch.inference_mode()
    def _score(self, queries: Sequence[Query]) -> list[Scores]:
        width = max(len(query.token_ids) for query in queries)
        # Padded on the right: under the causal mask no real token sees padding.
        padded = np.stack([np.pad(query.token_ids, (0, width - len(query.token_ids))) for query in queries])
        with short_attention(width, self._device):
            # [B, T, V]. Nothing is generated, so a key-value cache would only take memory.
            logits = self._model(input_ids=torch.from_numpy(padded).to(self._device), use_cache=False).logits
        return [scores_of(logits[row], query, self._num_tokens) for row, query in enumerate(queries)]


def scores_of(logits: Tensor, query: Query, num_tokens: int | None = None) -> Scores:
    """The scores of one sequence from its logits ``[T, V]``; softmax in float32, the top among ``num_tokens``."""
    # [S, V]: logits at position i predict token i + 1.
    predicting = logits[query.first - 1 : query.first + query.count - 1].float() / query.temperature
    log_softmax = predicting.log_softmax(-1)
    # [S]
    scored = torch.from_numpy(query.token_ids[query.first : query.first + query.count]).to(logits.device)
    # Not normalised again: what the padding of the embedding holds belongs to the tail.
    known = log_softmax[:, :num_tokens]
    # [S, K]
    top = known.topk(min(query.k, known.shape[-1]), dim=-1)
    # Summed over the rest: where the top k holds nearly all mass, 1 - sum(top) would be rounding error alone.
    rest = log_softmax.scatter(-1, top.indices, -torch.inf).logsumexp(-1) if query.k else log_softmax.new_zeros(0)
    return Scores(
        logprobs=log_softmax.gather(-1, scored[:, None])[:, 0].cpu().numpy(),
        top_ids=top.indices.cpu().numpy(),
        top_logprobs=top.values.cpu().numpy(),
        log_tail=rest.cpu().numpy(),
    )


async def start(config: TeacherConfig, path: str, *, num_tokens: int) -> ForwardEngine:
    """See ``StartScoring``."""
    load = functools.partial(
        ForwardEngine, path, dtype=config.dtype, torch_threads=config.torch_threads, num_tokens=num_tokens
    )
    with blaming_checkpoint(config, path):
        return await asyncio.to_thread(load)
