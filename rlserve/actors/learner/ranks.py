"""Several ranks as one learner: rank 0 leads, the others do what it says.

Before each collective piece of work rank 0 sends every other rank a header of fixed size (command and arguments)
and, to train or score, that rank's own micro-batches as plain tensors. A follower waits for nothing but the next
header: rank 0 may be silent for as long as it waits for groups, and its death closes the connection at once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.learner import checkpoint
from rlserve.actors.learner.checkpoint import Checkpoint
from rlserve.actors.learner.engine import LearnerEngine, LossFunction, StepReport
from rlserve.actors.learner.reference import Reference
from rlserve.actors.learner.tensor_wire import take_record, values_of
from rlserve.actors.learner.weights import weight_bytes
from rlserve.algorithms.base import Algorithm
from rlserve.algorithms.batch import Denominator, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import with_reference
from rlserve.batching.collate import OptimizerBatch
from rlserve.errors import StateCorrupt

logger = logging.getLogger(__name__)

MAGIC = 0x524C5352
PUBLISHED_DTYPES = (torch.float32, torch.bfloat16)
REFERENCE = "reference_logprobs"


class Command(IntEnum):
    """What a follower is told to do."""

    STEP = 1
    LOGPROBS = 2
    GATHER = 3
    SAVE = 4
    STOP = 5
    REFRESH = 6
    VOCABULARY = 7
    REACH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A command and its arguments; travels as 6 float64 numbers."""

    command: Command
    number: int
    """Counts up; a follower that misses one refuses to go on."""
    micro_batches: int = 0
    dtype: int = 0
    """Index into PUBLISHED_DTYPES."""
    lr: float = 0.0

    @property
    def title(self) -> str:
        """For messages."""
        return f"command {self.number} ({self.command.name.lower()})"

    @staticmethod
    def empty() -> Tensor:
        """Room for an encoded header."""
        return torch.zeros(6, dtype=torch.float64)

    def encode(self) -> Tensor:
        """``[6]`` float64."""
        values = [MAGIC, self.command, self.number, self.micro_batches, self.dtype, self.lr]
        return torch.tensor(values, dtype=torch.float64)

    @classmethod
    def decode(cls, encoded: Tensor) -> "Header":
        """Undo ``encode``. Raises StateCorrupt for anything else."""
        magic, command, number, micro_batches, dtype, lr = encoded.tolist()
        if magic != MAGIC or command not in list(Command):
            raise StateCorrupt(f"learner ranks: {encoded.tolist()} is no command")
        return cls(
            command=Command(int(command)),
            number=int(number),
            micro_batches=int(micro_batches),
            dtype=int(dtype),
            lr=lr,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Unmatched:
    """Tokens that a teacher with another tokenizer has not."""

    tokens: Tensor
    """``[V]`` bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """What leader and followers have alike."""

    engine: LearnerEngine
    algorithm: Algorithm
    reference: Reference | None = None
    """There when the algorithm needs it and no teacher serves it; see ``needs_reference``."""

    def train(self, micro_batches: Sequence[TokenBatch], denominator: Denominator, *, lr: float) -> StepReport:
        """One optimizer step from this rank's micro-batches; all ranks at once."""
        micro_batches, loss = self._ready(micro_batches, denominator)
        return self.engine.step(micro_batches, loss=loss, lr=lr, needs=self.algorithm.needs)

    def reach(self, micro_batches: Sequence[TokenBatch], denominator: Denominator) -> float:
        """See ``LearnerEngine.reach``; all ranks at once."""
        micro_batches, loss = self._ready(micro_batches, denominator)
        return self.engine.reach(micro_batches, loss=loss, needs=self.algorithm.needs)

    def _ready(
        self, micro_batches: Sequence[TokenBatch], denominator: Denominator
    ) -> tuple[Sequence[TokenBatch], LossFunction]:
        """The micro-batches, scored by the reference if one is needed, and their loss; a collective."""
        if self.reference is not None:
            micro_batches = self.reference.score(micro_batches)
        if needs_reference(self.algorithm):
            gap = torch.tensor(with_reference(denominator, micro_batches).reference_gap, dtype=torch.float64)
            denominator = replace(denominator, reference_gap=float(self.engine.links.sum(gap)))
        return micro_batches, lambda outputs, batch: self.algorithm.loss(outputs, batch, denominator)

    def refresh_reference(self) -> None:
        """Copy the policy into the reference; a collective."""
        if self.reference is not None:
            self.reference.copy_from(self.engine.module)

    def score(self, micro_batches: Sequence[TokenBatch]) -> list[PolicyOutputs]:
        """Log-probabilities of this rank's micro-batches under the present weights."""
        return [self.engine.logprobs(batch, needs=()) for batch in micro_batches]


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the reference's log-probabilities must be there."""
    return REFERENCE in algorithm.needs


class Leader:
    """Rank 0. With one rank it just does the work."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._engine = rank.engine
        self._number = 0
        self._failed = False

    def step(self, batch: OptimizerBatch, *, lr: float) -> StepReport:
        """One optimizer step from a batch that is laid out over the ranks."""
        shares = batch.micro_batches
        with self._command(Command.STEP, lr=lr, micro_batches=len(shares[0])):
            for rank, share in self._others(shares):
                self._engine.links.send_values(rank, values_of([batch.denominator, *share]))
            return self._rank.train(shares[0], batch.denominator, lr=lr)

    def reach(self, batch: OptimizerBatch) -> float:
        """See ``LearnerEngine.reach``."""
        shares = batch.micro_batches
        with self._command(Command.REACH, micro_batches=len(shares[0])):
            for rank, share in self._others(shares):
                self._engine.links.send_values(rank, values_of([batch.denominator, *share]))
            return self._rank.reach(shares[0], batch.denominator)

    def logprobs(self, shares: Sequence[Sequence[TokenBatch]]) -> tuple[tuple[PolicyOutputs, ...], ...]:
        """By rank and micro-batch, under the present weights; every rank has equally many micro-batches."""
        with self._command(Command.LOGPROBS, micro_batches=len(shares[0])):
            for rank, share in self._others(shares):
                self._engine.links.send_values(rank, values_of(share))
            scored = [tuple(self._rank.score(shares[0]))]
            for rank, share in self._others(shares):
                values = iter(self._engine.links.receive_values(rank))
                scored.append(tuple(take_record(PolicyOutputs, values) for _ in share))
            return tuple(scored)

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """See ``LearnerEngine.weights``; must be exhausted."""
        with self._command(Command.GATHER, dtype=PUBLISHED_DTYPES.index(dtype)):
            yield from self._engine.weights(dtype)

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Bytes that ``weights`` gives in all."""
        return weight_bytes(self._engine.module, dtype)

    @property
    def has_reference(self) -> bool:
        """Whether a copy of the reference is held by the ranks."""
        return self._rank.reference is not None

    def refresh_reference(self) -> None:
        """Make the present policy the reference."""
        with self._command(Command.REFRESH):
            self._rank.refresh_reference()

    def set_unmatched(self, tokens: Tensor) -> None:
        """See ``LearnerEngine.set_unmatched``."""
        with self._command(Command.VOCABULARY):
            for rank in range(1, self._engine.place.world_size):
                self._engine.links.send_values(rank, values_of([Unmatched(tokens)]))
            self._engine.set_unmatched(tokens)

    def save(
        self,
        directory: Path,
        step: int,
        state: Mapping[str, Any],
        *,
        keep: int,
        beside: Callable[[Path], object] | None = None,
    ) -> Checkpoint:
        """See ``checkpoint.save``."""
        with self._command(Command.SAVE):
            return checkpoint.save(
                directory, step, self._engine, state, keep=keep, reference=self._rank.reference, beside=beside
            )

    def close(self) -> None:
        """Let the followers end, then this rank's engine. After a failed command they have ended already."""
        if not self._failed:
            with self._command(Command.STOP):
                pass
        self._engine.close()

    @contextmanager
    def _command(self, command: Command, **arguments: Any) -> Iterator[None]:
        self._number += 1
        header = Header(command=command, number=self._number, **arguments)
        try:
            with self._engine.links.attributed(header.title):
                for rank in range(1, self._engine.place.world_size):
                    self._engine.links.send(rank, header.encode())
                yield
        except Exception:
            self._failed = True
            raise

    def _others(self, shares: Sequence[Sequence[TokenBatch]]) -> list[tuple[int, Sequence[TokenBatch]]]:
        return list(enumerate(shares))[1:]


def follow(rank: Rank, *, idle_seconds: float | None = None) -> None:
    """Obey rank 0 until it says stop. Raises Unavailable when it is gone, or silent for ``idle_seconds``.

    By default that is longer than any of rank 0's own waits: it gives up first and says for what it waited.
    """
    engine = rank.engine
    config = engine.config
    idle_seconds = idle_seconds or config.rank_timeout_seconds + 4 * config.max_wait_seconds
    for number in count(1):
        with engine.links.attributed("waiting for a command"):
            encoded = engine.links.receive(0, Header.empty(), timeout_seconds=idle_seconds)
        header = Header.decode(encoded)
        if header.number != number:
            raise StateCorrupt(f"learner rank {engine.place.rank}: got command {header.number}, not {number}")
        if header.command == Command.STOP:
            break
        with engine.links.attributed(header.title):
            _obey(rank, header)
    engine.close()


def _obey(rank: Rank, header: Header) -> None:
    engine = rank.engine
    if header.command in (Command.STEP, Command.REACH):
        values = iter(engine.links.receive_values(0))
        denominator = take_record(Denominator, values)
        share = [take_record(TokenBatch, values) for _ in range(header.micro_batches)]
        if header.command == Command.STEP:
            rank.train(share, denominator, lr=header.lr)
        else:
            rank.reach(share, denominator)
    elif header.command == Command.LOGPROBS:
        values = iter(engine.links.receive_values(0))
        share = [take_record(TokenBatch, values) for _ in range(header.micro_batches)]
        engine.links.send_values(0, values_of(rank.score(share)))
    elif header.command == Command.VOCABULARY:
        engine.set_unmatched(take_record(Unmatched, iter(engine.links.receive_values(0))).tokens)
    elif header.command == Command.REFRESH:
        rank.refresh_reference()
    elif header.command == Command.GATHER:
        for _ in engine.weights(PUBLISHED_DTYPES[header.dtype]):
            pass
    else:
        checkpoint.contribute(engine)
