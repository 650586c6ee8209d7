"""Scoring engine: a batched forward pass of transformers. The faster one on CPU, and exact at any temperature.

Shape letters: B rows, T tokens of a row, N scored tokens of all sequences, H size of a hidden state. On a GPU in
bfloat16 all sequences stand in one row without padding; elsewhere each in a row of its own.
"""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlserve.actors.teacher.scoring import Query, Scores, blaming_checkpoint
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.cpu_kernels import set_up_process, short_attention
from rlserve.models import attention
from rlserve.models.scored_model import ScoredModel, check_fused
from rlserve.models.top_scores import top_scores


class ForwardEngine:
    """One model in one thread."""

    def __init__(
        self,
        model_path: str,
        *,
        dtype: str,
        torch_threads: int = 0,
        num_tokens: int | None = None,
        packs: bool | None = None,
    ) -> None:
        """``num_tokens`` of the model's columns are the tokenizer's; the others are padding and never in a top k.

        ``packs``: all sequences of a batch in one row; None: where that is the faster.
        """
        from transformers import AutoModelForCausalLM

        if torch_threads:
            torch.set_num_threads(torch_threads)
        set_up_process()
        self._num_tokens = num_tokens
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._packs = self._device.type == "cuda" and dtype == "bfloat16" if packs is None else packs
        attention.register(self._device)
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_path,
            dtype=getattr(torch, dtype),
            attn_implementation=attention.VARLEN if self._packs else "sdpa",
            trust_remote_code=False,
        )
        self._model = ScoredModel(model.eval().requires_grad_(False).to(self._device))
        check_fused(self._model, self._model, self._device)
        # One thread: batches run one by one, and the event loop stays free for heartbeats.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teacher-forward")

    @property
    def vocabulary_size(self) -> int:
        """See ``ScoringEngine``."""
        return int(self._model.model.config.get_text_config().vocab_size)

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
        hidden, starts = self._packed(queries) if self._packs else self._padded(queries)
        answers: dict[int, Scores] = {}
        # One pass over the head for all that ask alike; a batch has one kind, as a rule.
        order = sorted(range(len(queries)), key=lambda i: (queries[i].k, queries[i].temperature))
        for (k, temperature), same in groupby(order, key=lambda i: (queries[i].k, queries[i].temperature)):
            numbers = list(same)
            asked = [queries[i] for i in numbers]
            # [N]: the state at position i predicts token i + 1.
            places = [starts[i] + np.arange(q.count) + q.first - 1 for i, q in zip(numbers, asked, strict=True)]
            ids = np.concatenate([q.token_ids[q.first : q.first + q.count] for q in asked])
            scores = top_scores(
                hidden.index_select(0, torch.from_numpy(np.concatenate(places)).to(self._device)),
                self._model.head.whole,
                torch.from_numpy(ids).to(self._device),
                k=k,
                temperature=temperature,
                num_tokens=self._num_tokens,
            )
            parts = zip(*(each.split([q.count for q in asked]) for each in scores), strict=True)
            answers |= {i: _scores(k, *part) for i, part in zip(numbers, parts, strict=True)}
        return [answers[i] for i in range(len(queries))]

    def _padded(self, queries: Sequence[Query]) -> tuple[Tensor, list[int]]:
        """Hidden states ``[B * T, H]``, and where each sequence begins in them."""
        width = max(len(query.token_ids) for query in queries)
        # Padded on the right: under the causal mask no real token sees padding.
        padded = np.stack([np.pad(query.token_ids, (0, width - len(query.token_ids))) for query in queries])
        with short_attention(width, self._device):
            # Nothing is generated, so a key-value cache would only take memory.
            states = self._model.states(input_ids=torch.from_numpy(padded).to(self._device), use_cache=False)
        return states.flatten(0, 1), [row * width for row in range(len(queries))]

    def _packed(self, queries: Sequence[Query]) -> tuple[Tensor, list[int]]:
        """The same of one row ``[1, T]`` that holds all sequences."""
        lengths = [len(query.token_ids) for query in queries]
        positions = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None]
        states = self._model.states(
            input_ids=torch.from_numpy(np.concatenate([q.token_ids for q in queries]))[None].to(self._device),
            position_ids=positions.to(self._device),
            use_cache=False,
            **attention.Sequences.of(positions).arguments(self._device),
        )
        return states.flatten(0, 1), np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()


def _scores(k: int, logprobs: Tensor, top_ids: Tensor, top: Tensor, rest: Tensor) -> Scores:
    return Scores(
        logprobs=logprobs.numpy(),
        top_ids=top_ids.numpy(),
        top_logprobs=top.numpy(),
        log_tail=(rest if k else rest[:0]).numpy(),
    )


async def start(config: TeacherConfig, path: str, *, num_tokens: int) -> ForwardEngine:
    """See ``StartScoring``."""
    load = functools.partial(
        ForwardEngine, path, dtype=config.dtype, torch_threads=config.torch_threads, num_tokens=num_tokens
    )
    with blaming_checkpoint(config, path):
        return await asyncio.to_thread(load)
