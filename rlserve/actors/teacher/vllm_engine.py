"""Scoring engine: vLLM's ``prompt_logprobs``, for models that need vLLM's parallelism.

vLLM computes prompt log-probabilities at temperature 1 whatever the request says, and without a tail: the tail is 1
less the mass of the top k.
"""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlserve.actors.teacher.scoring import Query, Scores
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.engines.base import EngineOptions
from rlserve.engines.vllm.starting.progress import launched
from rlserve.errors import EngineDied, InvalidRequest, StateCorrupt


class VllmScoringEngine:
    """One vLLM engine that only scores prompts."""

    def __init__(self, llm: Any, num_tokens: int | None) -> None:
        """For ``start`` alone."""
        self._llm = llm
        self._num_tokens = num_tokens
        self._numbers = itertools.count()

    @classmethod
    async def start(cls, options: EngineOptions, *, max_k: int, num_tokens: int | None = None) -> "VllmScoringEngine":
        """Start vLLM on the checkpoint; ``num_tokens`` of its columns are the tokenizer's.

        Raises DeadlineExceeded, and what vLLM raises.
        """
        # No prefix cache: vLLM 0.32 does not read it for a request with prompt_logprobs
        # (SamplingParams.skip_reading_prefix_cache). vLLM refuses more than max_logprobs.
        llm = await launched(options, max_logprobs=max(max_k, 1), enable_prefix_caching=False)
        return cls(llm, num_tokens)

    @property
    def vocabulary_size(self) -> int:
        """See ``ScoringEngine``."""
        return int(self._llm.model_config.get_vocab_size())

    def check(self, query: Query) -> None:
        """Raise InvalidRequest unless the temperature is 1."""
        if query.temperature != 1.0:
            raise InvalidRequest(
                f"temperature: is {query.temperature:g}, but prompt_logprobs are at 1; ask for 1, or serve this "
                "teacher with engine = 'transformers'"
            )

    async def score(self, queries: Sequence[Query]) -> list[Scores]:
        """See ``ScoringEngine``."""
        # All at once: vLLM makes its own batches.
        return list(await asyncio.gather(*(self._score(query) for query in queries)))

    async def close(self) -> None:
        """See ``ScoringEngine``."""
        await asyncio.to_thread(self._llm.shutdown)

    async def _score(self, query: Query) -> Scores:
        from vllm import SamplingParams, TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        # One token is the fewest that vLLM generates; it is dropped.
        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=query.k, flat_logprobs=True, detokenize=False
        )
        prompt = TokensPrompt(prompt_token_ids=query.token_ids.tolist())
        last = None
        try:
            async for output in self._llm.generate(prompt, parameters, f"score-{next(self._numbers)}"):
                last = output
        except EngineDeadError as error:
            raise EngineDied(f"teacher: vLLM's engine died: {error}") from error
        if last is None or last.prompt_logprobs is None:
            raise EngineDied("teacher: vLLM answered without prompt log-probabilities")
        return scores_of(last.prompt_logprobs, query, self._num_tokens)


def scores_of(flat: Any, query: Query, num_tokens: int | None = None) -> Scores:
    """Scores from vLLM's ``FlatLogprobs``, which has at each position the token's own entry, then the top k by rank.

    An entry beyond ``num_tokens`` is padding of the embedding and is dropped; all tops are then cut to the shortest.
    Raises StateCorrupt when vLLM gave another number of entries.
    """
    first, last = flat.start_indices[query.first], flat.end_indices[query.first + query.count - 1]
    if last - first != query.count * (query.k + 1):
        raise StateCorrupt(f"teacher: vLLM gave {last - first} entries for {query.count} tokens with k = {query.k}")
    # [S, 1 + K]
    logprobs = np.array(flat.logprobs[first:last], dtype=np.float32).reshape(query.count, -1)
    ids = np.array(flat.token_ids[first:last], dtype=np.int64).reshape(query.count, -1)
    own, ids, top = logprobs[:, 0], ids[:, 1:], logprobs[:, 1:]
    if num_tokens is not None and (ids >= num_tokens).any():
        # The known ones first, in their order; arrays need one K.
        order = np.argsort(ids >= num_tokens, axis=1, kind="stable")[:, : (ids < num_tokens).sum(1).min()]
        ids, top = np.take_along_axis(ids, order, 1), np.take_along_axis(top, order, 1)
    # A mass of 1 has no tail: log(0) is the -infinity that Scores promises.
    with np.errstate(divide="ignore"):
        # In float64: 1 - mass cancels most digits of float32.
        mass = np.exp(top.astype(np.float64)).sum(-1)
        tail = np.log(np.clip(1.0 - mass, 0.0, None)).astype(np.float32) if query.k else np.zeros(0, dtype=np.float32)
    return Scores(logprobs=own, top_ids=ids, top_logprobs=top, log_tail=tail)


async def start(config: TeacherConfig, path: str, *, num_tokens: int) -> VllmScoringEngine:
    """See ``StartScoring``."""
    options = EngineOptions(
        model_path=path,
        dtype=config.dtype,
        max_length=config.max_length + 1,  # vLLM samples one token after the last
        kv_cache_bytes=config.kv_cache_bytes,
    )
    return await VllmScoringEngine.start(options, max_k=config.max_k, num_tokens=num_tokens)
