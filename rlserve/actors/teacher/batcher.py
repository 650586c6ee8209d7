"""Collects the queries of all callers in one queue and cuts batches for the engine.

``score``  waits for: its turn and the engine. unblocked by: the scores, the engine's failure, or the caller's
           cancellation, which removes the query from the queue.
``_run``   waits for: queries. Ends with the batcher.

Queries that arrive while a batch runs make the next batch. No query waits for a batch to fill up.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlserve.actors.teacher.scoring import Query, Scores, ScoringEngine
from rlserve.errors import LimitExceeded


@dataclass(slots=True, eq=False)
class _Waiting:
    query: Query
    answer: asyncio.Future[Scores] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ScoreCache:
    """The scores used last, by content, up to a size in bytes: a frozen model scores the same tokens the same."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Scores] = OrderedDict()
        self.num_bytes = 0
        self.hits = 0

    def get(self, query: Query) -> Scores | None:
        """The scores of an equal query, or None."""
        digest = query.digest
        found = self._entries.get(digest)
        if found is not None:
            self._entries.move_to_end(digest)
            self.hits += 1
        return found

    def put(self, query: Query, scores: Scores) -> None:
        """Store scores, and drop those used least recently when the size is exceeded."""
        digest = query.digest
        # One batch may hold equal queries: the second must not be counted. What exceeds the cache would only empty it.
        if digest in self._entries or scores.num_bytes > self._max_bytes:
            return
        self._entries[digest] = scores
        self.num_bytes += scores.num_bytes
        while self.num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= oldest.num_bytes


class Batcher:
    """Batches and caches the queries of one engine, as an async context manager.

    Example::

        async with Batcher(engine, tokens_per_batch=8192, max_queue=4096, cache_bytes=2**26) as batcher:
            scores = await batcher.score(query)
    """

    def __init__(self, engine: ScoringEngine, *, tokens_per_batch: int, max_queue: int, cache_bytes: int) -> None:
        self._engine = engine
        self._tokens_per_batch = tokens_per_batch
        self._max_queue = max_queue
        self._cache = ScoreCache(cache_bytes)
        self._queue: list[_Waiting] = []
        self._filled = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._in_engine = 0
        self.scored = self.batches = 0

    async def __aenter__(self) -> "Batcher":
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        for waiting in self._queue:
            waiting.answer.cancel()

    @property
    def num_queued(self) -> int:
        """Sequences waiting or being scored."""
        return len(self._queue) + self._in_engine

    @property
    def cache_hits(self) -> int:
        """Queries answered from the cache."""
        return self._cache.hits

    async def score(self, query: Query) -> Scores:
        """Scores of one query. Raises LimitExceeded when the queue is full, and what the engine raises."""
        known = self._cache.get(query)
        if known is not None:
            return known
        if self.num_queued >= self._max_queue:
            raise LimitExceeded(
                f"teacher queue: {self.num_queued} sequences wait already; ask another server or try again"
            )
        # Before it is queued: inside of a batch its error would fail the other queries.
        self._engine.check(query)
        waiting = _Waiting(query)
        self._queue.append(waiting)
        self._filled.set()
        try:
            return await waiting.answer
        finally:
            if waiting in self._queue:  # the caller was cancelled before its turn
                self._queue.remove(waiting)

    async def _run(self) -> None:
        while True:
            while not self._queue:
                # No await between the look at the queue and this line, so that no query is missed.
                self._filled.clear()
                await self._filled.wait()
            batch = next_batch(self._queue, self._tokens_per_batch)
            # ``in`` goes by identity (eq=False): numpy refuses to compare the arrays of two queries as one truth value.
            self._queue = [waiting for waiting in self._queue if waiting not in batch]
            self._in_engine = len(batch)
            try:
                await self._serve(batch)
            finally:
                self._in_engine = 0

    async def _serve(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._engine.score([waiting.query for waiting in batch])
        except asyncio.CancelledError:
            # The batcher stops: their callers would wait without end.
            for waiting in batch:
                waiting.answer.cancel()
            raise
        except Exception as error:  # passed on to every waiting caller; the next batch may succeed
            for waiting in batch:
                # Done already: its caller was cancelled meanwhile.
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        self.batches += 1
        self.scored += len(batch)
        for waiting, scores in zip(batch, answers, strict=True):
            self._cache.put(waiting.query, scores)
            if not waiting.answer.done():
                waiting.answer.set_result(scores)


def next_batch(queue: Sequence[_Waiting], tokens: int) -> list[_Waiting]:
    """The oldest query, and those nearest to its length that fit beside it in ``tokens`` padded tokens.

    The oldest goes first, so that no length is starved; near lengths waste little padding.
    """
    oldest, *others = queue
    length = len(oldest.query.token_ids)
    batch, width = [oldest], length
    for waiting in sorted(others, key=lambda w: abs(len(w.query.token_ids) - length)):
        wider = max(width, len(waiting.query.token_ids))
        if wider * (len(batch) + 1) > tokens:
            break
        batch.append(waiting)
        width = wider
    return batch
