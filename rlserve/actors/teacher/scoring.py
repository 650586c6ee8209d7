"""Scoring engines of teachers: query, scores, the contract, and the table of engines.

Shape letters: T tokens of a sequence, S scored ones, K entries of the top.
"""

import hashlib
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rlserve.config.tables.teacher import TeacherConfig
from rlserve.engines.factory import imported
from rlserve.errors import ConfigError

SCORING_ENGINES: Mapping[str, str] = {
    "transformers": "rlserve.actors.teacher.forward:start",
    "vllm": "rlserve.actors.teacher.vllm_engine:start",
}
"""``module:function`` that starts each kind (``StartScoring``). Adding one is a module and a line here."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One sequence, and the range of its tokens to score."""

    token_ids: npt.NDArray[np.int64]
    """``[T]``."""
    first: int
    """Position of the first scored token, at least 1: no logits predict token 0."""
    count: int
    """S; the scored tokens are consecutive."""
    k: int = 0
    """Top entries per token; 0 gives the token's own log-probability alone."""
    temperature: float = 1.0

    @property
    def digest(self) -> bytes:
        """Equal exactly for equal queries to one teacher."""
        # repr of a float is exact: two temperatures never share a key.
        described = f"{self.first}/{self.count}/{self.k}/{self.temperature!r}/"
        return hashlib.blake2b(described.encode() + self.token_ids.tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """The answer to a query: entry i belongs to scored token i."""

    logprobs: npt.NDArray[np.float32]
    """``[S]``."""
    top_ids: npt.NDArray[np.int64]
    """``[S, K]``, likeliest first."""
    top_logprobs: npt.NDArray[np.float32]
    """``[S, K]``."""
    log_tail: npt.NDArray[np.float32]
    """``[S]`` log of the mass outside the top K, -infinity where that is 0; empty when K is 0."""

    @property
    def num_bytes(self) -> int:
        """Memory of its arrays."""
        return self.logprobs.nbytes + self.top_ids.nbytes + self.top_logprobs.nbytes + self.log_tail.nbytes


class ScoringEngine(Protocol):
    """Runs a frozen model. Used from one event loop, one batch at a time."""

    @property
    def vocabulary_size(self) -> int:
        """Columns of the model's output; token ids lie below."""
        ...

    def check(self, query: Query) -> None:
        """Raise InvalidRequest for a query that this engine cannot score."""
        ...

    def score(self, queries: Sequence[Query]) -> Awaitable[list[Scores]]:
        """Scores of a batch, in order. Raises EngineDied when the engine is gone for good."""
        ...

    def close(self) -> Awaitable[None]:
        """Free the model."""
        ...


class StartScoring(Protocol):
    """Starts a scoring engine of one kind."""

    async def __call__(self, config: TeacherConfig, path: str, *, num_tokens: int) -> ScoringEngine:
        """Load the checkpoint at ``path``; ``num_tokens`` of its columns are the tokenizer's. Raises ConfigError."""
        ...


async def start_scoring(config: TeacherConfig, path: str, *, num_tokens: int) -> ScoringEngine:
    """The engine that ``teachers.engine`` names, on the checkpoint at ``path``."""
    start: StartScoring = imported(SCORING_ENGINES, config.engine, key="teachers.engine")
    return await start(config, path, num_tokens=num_tokens)


@contextmanager
def blaming_checkpoint(config: TeacherConfig, path: str) -> Iterator[None]:
    """A checkpoint that a library cannot read is a fault of the configuration."""
    try:
        yield
    # transformers raises OSError for missing files, and ValueError for a model type that it does not know.
    except (OSError, ValueError) as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"teachers.model: {path!r} of {config.name!r} cannot be loaded: {problem}") from error
