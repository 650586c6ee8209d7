"""Batches fit their bound, the cache answers what is known, a full queue refuses, a failed batch fails alone."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from rlserve.actors.teacher.batcher import Batcher
from rlserve.actors.teacher.scoring import Query, Scores
from rlserve.errors import EngineDied, LimitExceeded


def query(length: int, seed: int = 0) -> Query:
    return Query(token_ids=np.arange(length) + seed, first=1, count=length - 1)


class Engine:
    """Answers with the length; notes what was asked together. Holds still until it is let go."""

    vocabulary_size = 100

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    def check(self, query: Query) -> None:
        pass

    async def score(self, queries: Sequence[Query]) -> list[Scores]:
        self.batches.append([len(q.token_ids) for q in queries])
        await self.go.wait()
        if self.error is not None:
            raise self.error
        nothing = np.zeros((0, 0))
        return [
            Scores(
                logprobs=np.full(q.count, -len(q.token_ids), dtype=np.float32),
                top_ids=nothing.astype(np.int64),
                top_logprobs=nothing.astype(np.float32),
                log_tail=np.zeros(0, dtype=np.float32),
            )
            for q in queries
        ]

    async def close(self) -> None:
        pass


def batcher(engine: Engine, *, tokens: int = 40, queue: int = 100, cache: int = 2**20) -> Batcher:
    return Batcher(engine, tokens_per_batch=tokens, max_queue=queue, cache_bytes=cache)


async def test_batches_hold_neighbours_in_length_and_never_more_padded_tokens_than_allowed() -> None:
    engine = Engine()
    async with batcher(engine) as batches:
        answers = await asyncio.gather(*(batches.score(query(n, seed=n)) for n in (10, 30, 11, 9, 10, 31, 2)))
    assert [int(-a.logprobs[0]) for a in answers] == [10, 30, 11, 9, 10, 31, 2]
    assert all(max(lengths) * len(lengths) <= 40 for lengths in engine.batches)
    assert sorted(engine.batches[0]) == [10, 10, 11]


async def test_the_same_query_is_scored_once() -> None:
    engine = Engine()
    async with batcher(engine) as batches:
        first = await batches.score(query(5))
        again = await batches.score(query(5))
        await batches.score(query(5, seed=1))
    assert again is first
    assert batches.cache_hits == 1
    assert engine.batches == [[5], [5]]


async def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    engine = Engine()
    async with batcher(engine, cache=2 * query(5).count * 4) as batches:
        for seed in (0, 1, 0, 2, 0, 1):
            await batches.score(query(5, seed=seed))
    assert batches.cache_hits == 2  # 0 both times; 1 was pushed out by 2


async def test_a_full_queue_refuses_at_once_and_a_caller_that_gave_up_frees_its_place() -> None:
    engine = Engine()
    engine.go.clear()
    async with batcher(engine, queue=2) as batches:
        waiting = [asyncio.create_task(batches.score(query(30, seed=i))) for i in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(LimitExceeded, match="2 sequences wait already"):
            await batches.score(query(30, seed=7))
        waiting[1].cancel()
        await asyncio.sleep(0.01)
        later = asyncio.create_task(batches.score(query(30, seed=8)))
        engine.go.set()
        assert (await waiting[0]).logprobs[0] == (await later).logprobs[0] == -30
    assert len(engine.batches) == 2


async def test_a_batch_that_failed_fails_alone() -> None:
    engine = Engine()
    async with batcher(engine) as batches:
        engine.error = EngineDied("gone")
        with pytest.raises(EngineDied):
            await batches.score(query(5))
        engine.error = None
        assert (await batches.score(query(5))).logprobs[0] == -5
