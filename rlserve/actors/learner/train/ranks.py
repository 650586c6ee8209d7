"""Several ranks as one learner: rank 0 (``trainer.Trainer``) leads, the others follow its commands.

Before each collective piece of work rank 0 sends every other rank a header of fixed size (command and arguments)
and, to train or score, that rank's own micro-batches as plain tensors. A follower waits for nothing but the next
header: rank 0 may be silent for as long as it waits for groups, and its death closes the connection at once.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from rlserve.actors.checkpoints import Checkpoint
from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.engine import LearnerEngine, LossFunction, StepReport
from rlserve.actors.learner.train.gather import held_bytes
from rlserve.actors.learner.train.reference import BaseReference, Reference
from rlserve.actors.learner.train.saving.checkpoint import CheckpointWriter, restore
from rlserve.actors.learner.train.tensor_wire import take_record, values_of
from rlserve.algorithms import registry
from rlserve.algorithms.base import Algorithm, Stateful
from rlserve.algorithms.batch import Denominator, PolicyOutputs, TokenBatch
from rlserve.algorithms.masked import with_reference
from rlserve.config.run import RunConfig
from rlserve.errors import StateCorrupt
from rlserve.memory.formulas import ACTOR_BYTES
from rlserve.models.adapter_files import base_of

MAGIC = 0x524C5352
"""First number of every header ("RLSR"): a rank that reads anything else is out of step."""
ALGORITHM_STATE = "algorithm"
"""Name of the algorithm's memory in a checkpoint's state."""
POLICY_OUTPUTS = frozenset({"entropy", "entropy_gradient", "log_partition"})
"""Needs that a batch without teacher or reference can meet."""
PUBLISHED_DTYPES = (torch.float32, torch.bfloat16)
"""Types of published weights; a header names one by its index."""
REFERENCE = "reference_logprobs"


class Command(IntEnum):
    """The collective work that a follower takes part in."""

    STEP = 1
    LOGPROBS = 2
    GATHER = 3
    SAVE = 4
    STOP = 5
    REFRESH = 6
    VOCABULARY = 7
    OUTPUT_GRADIENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A command and its arguments; travels as 6 float64 numbers."""

    command: Command
    number: int
    """Counts up; a follower that missed one raises StateCorrupt."""
    micro_batches: int = 0
    dtype: int = 0
    """Index into PUBLISHED_DTYPES."""
    lr: float = 0.0

    @property
    def title(self) -> str:
        """For messages: which command, by number and name."""
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
        # float64 holds every number exactly; NaN and anything else that is no command is refused here
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
class UnsharedTokens:
    """Policy tokens missing from the teacher's vocabulary."""

    tokens: Tensor
    """``[V]`` bool."""


@dataclass(frozen=True, slots=True, eq=False)
class SavePlace:
    """Where a checkpoint is being written, and the host memory that a rank's copies may take."""

    path: Tensor
    """``[n]`` uint8."""
    buffer_bytes: float

    @classmethod
    def of(cls, directory: Path, buffer_bytes: int) -> "SavePlace":
        """As it travels."""
        return cls(torch.tensor(list(os.fsencode(directory)), dtype=torch.uint8), float(buffer_bytes))

    @property
    def directory(self) -> Path:
        """Undo ``of``."""
        return Path(os.fsdecode(bytes(self.path.tolist())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One process's share of the learner: the policy with its optimizer, the algorithm, and the reference model."""

    engine: LearnerEngine
    algorithm: Algorithm
    reference: Reference | BaseReference | None = None
    """None when the algorithm needs no reference, or a teacher serves it."""

    def train(self, micro_batches: Sequence[TokenBatch], denominator: Denominator, *, lr: float) -> StepReport:
        """One optimizer step from this rank's micro-batches; all ranks at once."""
        micro_batches, loss = self._ready(micro_batches, denominator)
        return self.engine.step(micro_batches, loss=loss, lr=lr, needs=self.algorithm.needs)

    def output_gradient_norm(self, micro_batches: Sequence[TokenBatch], denominator: Denominator) -> float:
        """Norm of the loss's gradient by the policy's outputs; all ranks at once."""
        micro_batches, loss = self._ready(micro_batches, denominator)
        return self.engine.output_gradient_norm(micro_batches, loss=loss, needs=self.algorithm.needs)

    def _ready(
        self, micro_batches: Sequence[TokenBatch], denominator: Denominator
    ) -> tuple[Sequence[TokenBatch], LossFunction]:
        """The micro-batches, scored by the reference model if it is held here, and their loss; a collective."""
        if self.reference is not None:
            micro_batches = self.reference.score(micro_batches)
        if needs_reference(self.algorithm):
            # The denominator was made on rank 0, before the reference scored the batch: each rank adds its own part.
            gap = torch.tensor(with_reference(denominator, micro_batches).reference_gap, dtype=torch.float64)
            denominator = replace(denominator, reference_gap=float(self.engine.sum_of_rows(gap)))
        return micro_batches, lambda outputs, batch: self.algorithm.loss(outputs, batch, denominator)

    def refresh_reference(self) -> None:
        """Copy the policy's weights into the reference model; a collective."""
        if isinstance(self.reference, Reference):
            self.reference.copy_from(self.engine.module)

    def score(self, micro_batches: Sequence[TokenBatch]) -> list[PolicyOutputs]:
        """Log-probabilities of this rank's micro-batches under the present weights."""
        return [self.engine.logprobs(batch, needs=()) for batch in micro_batches]


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the loss reads the reference's log-probabilities."""
    return REFERENCE in algorithm.needs


def create_rank(
    config: RunConfig, *, start_model: str, model_path: str, checkpoint: Checkpoint | None, rank_info: RankInfo
) -> Rank:
    """This process's share of the learner; every rank makes its own.

    ``start_model`` is what the run began with (the reference, when the algorithm needs one), ``model_path`` what
    it goes on with, ``checkpoint`` where optimizer and random state come from.
    """
    engine = LearnerEngine(model_path, config.learner, seed=config.seed, rank_info=rank_info, base=base_of(start_model))
    algorithm = registry.create(config.algorithm)
    if checkpoint is not None:
        restore(checkpoint, engine)
        if isinstance(algorithm, Stateful):
            algorithm.restore(checkpoint.state.get(ALGORITHM_STATE, {}))
    # Before the first wait for groups: the rollout engines start meanwhile.
    engine.warm_up(
        width=config.model.max_length,
        trained=config.rollout.max_new_tokens,
        needs=algorithm.needs & POLICY_OUTPUTS,
    )
    beside = needs_reference(algorithm) and not config.reference.teacher
    reference: Reference | BaseReference | None = None
    if beside and config.learner.lora is not None:
        reference = BaseReference(engine)
    elif beside:
        # A refreshed reference is no longer the start model, so the checkpoint carries it.
        kept = checkpoint.reference_path if checkpoint is not None else None
        reference = Reference(str(kept or start_model), config.learner, rank_info, parallel=engine.parallel)
        reference.is_start = kept is None
    if engine.planned_bytes:
        engine.planned_bytes += held_bytes(reference.module) if isinstance(reference, Reference) else 0
        engine.planned_bytes += ACTOR_BYTES if rank_info.device.type == "cpu" else 0
    return Rank(engine=engine, algorithm=algorithm, reference=reference)


def follow(rank: Rank, *, idle_seconds: float | None = None) -> None:
    """Run rank 0's commands until STOP. Raises Unavailable when rank 0 is gone, or silent for ``idle_seconds``.

    By default that is longer than any wait of rank 0, so that rank 0 gives up first and reports what it waited for.
    """
    engine, saving = rank.engine, CheckpointWriter(rank.engine, rank.reference)
    config = engine.config
    idle_seconds = idle_seconds or config.rank_timeout_seconds + 4 * config.max_wait_seconds
    for number in count(1):
        with engine.links.attributed("waiting for a command"):
            encoded = engine.links.receive(0, Header.empty(), timeout_seconds=idle_seconds)
        header = Header.decode(encoded)
        if header.number != number:
            # Out of step, this rank would wait in collectives in which the others are not, until they time out.
            raise StateCorrupt(f"learner rank {engine.rank_info.rank}: got command {header.number}, not {number}")
        if header.command == Command.STOP:
            break
        with engine.links.attributed(header.title):
            if header.command == Command.SAVE:
                place = take_record(SavePlace, iter(engine.links.receive_values(0)))
                saving.contribute(place.directory, buffer_bytes=int(place.buffer_bytes))
            else:
                _obey(rank, header)
    # Rank 0 sent STOP: it has what this rank had to write.
    saving.close()
    engine.close()


def _obey(rank: Rank, header: Header) -> None:
    engine = rank.engine
    if header.command in (Command.STEP, Command.OUTPUT_GRADIENT):
        values = iter(engine.links.receive_values(0))
        # In the order in which ``Trainer._send`` sends them: the wire carries no names.
        denominator = take_record(Denominator, values)
        share = [take_record(TokenBatch, values) for _ in range(header.micro_batches)]
        if header.command == Command.STEP:
            rank.train(share, denominator, lr=header.lr)
        else:
            rank.output_gradient_norm(share, denominator)
    elif header.command == Command.LOGPROBS:
        values = iter(engine.links.receive_values(0))
        share = [take_record(TokenBatch, values) for _ in range(header.micro_batches)]
        engine.links.send_values(0, values_of(rank.score(share)))
    elif header.command == Command.VOCABULARY:
        engine.set_unshared(take_record(UnsharedTokens, iter(engine.links.receive_values(0))).tokens)
    elif header.command == Command.REFRESH:
        rank.refresh_reference()
    else:
        for _ in engine.weights(PUBLISHED_DTYPES[header.dtype]):
            pass  # yields nothing here, but takes part in the gathers of ZeRO-3
