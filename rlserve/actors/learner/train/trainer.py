"""Rank 0's view of training: step, score, publish and save, over one rank or many."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.checkpoints import Checkpoint
from rlserve.actors.learner.train.engine import StepReport
from rlserve.actors.learner.train.gather import (
    gather,
    in_place,
    is_partitioned,
    published_dtype,
    weight_bytes,
)
from rlserve.actors.learner.train.ranks import (
    ALGORITHM_STATE,
    PUBLISHED_DTYPES,
    Command,
    Header,
    Rank,
    SavePlace,
    UnsharedTokens,
    needs_reference,
)
from rlserve.actors.learner.train.reference import Reference
from rlserve.actors.learner.train.saving.checkpoint import CheckpointWriter, Plan
from rlserve.actors.learner.train.scorer import DTYPES
from rlserve.actors.learner.train.tensor_wire import take_record, values_of
from rlserve.algorithms.base import Algorithm, Stateful
from rlserve.algorithms.batch import PolicyOutputs, TokenBatch
from rlserve.batching.collate import OptimizerBatch
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import EventLog
from rlserve.weight_sync.background import BackgroundPublisher
from rlserve.weight_sync.host import SHARED_MEMORY
from rlserve.weight_sync.publication import Publication
from rlserve.weight_sync.publisher import Publisher

logger = logging.getLogger(__name__)

Shares = Sequence[Sequence[TokenBatch]]
"""By rank, or by group of ranks that share rows, and micro-batch; all have equally many."""


class Trainer:
    """Rank 0: commands the other ranks, publishes weights, writes checkpoints. A single rank has none to command.

    Example, two steps of a run::

        trainer = Trainer(config, paths, create_rank(config, ...))
        trainer.publish(0)                                  # workers fetch version 0 as soon as it is written
        report = trainer.train([batch], passes=1, lr=1e-5)  # STEP to every rank, then its own share
        trainer.publish(1)                                  # GATHER: all ranks hand over their parts
        trainer.save(1, state)                              # SAVE: step-1/ appears whole
        trainer.close()                                     # STOP: followers end, published files go
    """

    def __init__(self, config: RunConfig, paths: RunPaths, rank: Rank) -> None:
        self._config = config
        self._paths = paths
        self._rank = rank
        self._engine = rank.engine
        self._commands = 0
        self._failed = False
        self.algorithm: Algorithm = rank.algorithm
        self.served_reference = config.reference.teacher if needs_reference(rank.algorithm) else ""
        """Teacher that scores for the reference; empty when it is held here, or not needed."""
        self.vocabulary = rank.engine.vocabulary
        """Rows of the policy's embedding: token ids lie below."""
        self._events = EventLog(paths.events)
        self.publisher = Publisher(SHARED_MEMORY, fallback=paths.root, run_id=config.name, warn=self._warn)
        self.publishing = BackgroundPublisher(self.publisher)
        self.saving = CheckpointWriter(rank.engine, rank.reference)
        rank.engine.before_update = self.publishing.wait_until_copied

    def train(self, batches: Sequence[OptimizerBatch], *, passes: int, lr: float) -> StepReport:
        """One update a batch, ``passes`` times over; the report of all of them together.

        With more than one update each batch is scored before the first: that policy is the proximal one.
        """
        if len(batches) * passes > 1:
            batches = [self._with_proximal(batch) for batch in batches]
        reports = [self.step(batch, lr=lr) for _ in range(passes) for batch in batches]
        return reports[0] if len(reports) == 1 else combine(reports)

    def step(self, batch: OptimizerBatch, *, lr: float) -> StepReport:
        """One optimizer step from a batch that is laid out over the ranks."""
        shares = batch.micro_batches
        with self._command(Command.STEP, lr=lr, micro_batches=len(shares[0])):
            self._send(shares, batch.denominator)  # before this rank's own share, so that all compute at once
            return self._rank.train(shares[0], batch.denominator, lr=lr)

    def output_gradient_norm(self, batch: OptimizerBatch) -> float:
        """Norm of the gradient of the batch's loss by the policy's outputs; not finite when loss or gradient is not."""
        shares = batch.micro_batches
        with self._command(Command.OUTPUT_GRADIENT, micro_batches=len(shares[0])):
            self._send(shares, batch.denominator)
            return self._rank.output_gradient_norm(shares[0], batch.denominator)

    def logprobs(self, shares: Shares) -> tuple[tuple[PolicyOutputs, ...], ...]:
        """Outputs under the present weights, by rank and micro-batch."""
        with self._command(Command.LOGPROBS, micro_batches=len(shares[0])):
            self._send(shares)
            # Rank 0's own share first: the followers score theirs meanwhile.
            scored = [tuple(self._rank.score(shares[0]))]
            for rank in self._followers:
                values = iter(self._engine.links.receive_values(rank))
                outputs = tuple(take_record(PolicyOutputs, values) for _ in self._share(shares, rank))
                if len(scored) == self._group_of(rank):  # the first rank of its group
                    scored.append(outputs)
            return tuple(scored)

    def has_finite_logprobs(self, batch: OptimizerBatch) -> bool:
        """Whether every log-probability that the policy gives to the batch is finite."""
        scored = self.logprobs(batch.micro_batches)
        return all(bool(torch.isfinite(outputs.logprobs).all()) for share in scored for outputs in share)

    def algorithm_state(self) -> Mapping[str, float]:
        """What the algorithm keeps from batch to batch, for ``restore_algorithm``."""
        return self.algorithm.state() if isinstance(self.algorithm, Stateful) else {}

    def restore_algorithm(self, state: Mapping[str, float]) -> None:
        """Put back what ``algorithm_state`` returned: batches prepared since then were not trained on."""
        if isinstance(self.algorithm, Stateful):
            self.algorithm.restore(state)

    def set_unshared(self, tokens: Tensor) -> None:
        """Set the policy tokens missing from the teacher's vocabulary, ``[V]`` bool, on every rank."""
        with self._command(Command.VOCABULARY):
            for rank in self._followers:
                self._engine.links.send_values(rank, values_of([UnsharedTokens(tokens)]))
            self._engine.set_unshared(tokens)

    @property
    def has_reference(self) -> bool:
        """Whether the ranks hold a copy of the reference model."""
        return isinstance(self._rank.reference, Reference)

    def refresh_reference(self) -> None:
        """Make the present policy the reference model, on every rank."""
        with self._command(Command.REFRESH):
            self._rank.refresh_reference()

    def publish(self, version: int, published: Callable[[], object] = lambda: None) -> None:
        """Begin to publish the present weights; ``published`` is called, in another thread, once they can be fetched.

        Returns before that, where the weights can be read while the next step computes its gradients; its update then
        waits for the copy. Raises what the publication before raised.
        """
        self.publishing.wait()
        dtype = self._published_dtype
        module, device = self._engine.module, self._engine.rank_info.device
        publication = self.publisher.begin(version, size_bytes=weight_bytes(module, dtype), device=device)
        copies: Iterable[tuple[str, Tensor]] = (
            self._gathered_into(publication, dtype) if is_partitioned(module) else in_place(module)
        )
        self.publishing.start(publication, partial(_copy, copies, dtype), published)

    @property
    def _published_dtype(self) -> torch.dtype:
        # Adapters as they are: workers add them up in float32, and their bytes are few.
        if self._config.learner.lora is not None:
            return self._engine.dtype
        return DTYPES[self._config.learner.publish_dtype or self._config.rollout.dtype]

    def _gathered_into(self, publication: Publication, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
        """Copy partitioned weights now, since all ranks must take part; nothing is left to copy."""

        def take(name: str, tensor: Tensor) -> Tensor:
            publication.add(name, tensor, published_dtype(tensor, dtype))
            publication.settle()  # the next ones are gathered into the same memory
            return tensor

        try:
            with self._command(Command.GATHER, dtype=PUBLISHED_DTYPES.index(dtype)):
                for _ in gather(self._engine.module, dtype, is_receiver=True, take=take):
                    pass
        except BaseException:
            publication.abandon()
            raise
        return []

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """Copies of all weights in host memory, by Hugging Face name; must be exhausted."""
        with self._command(Command.GATHER, dtype=PUBLISHED_DTYPES.index(dtype)):
            yield from gather(self._engine.module, dtype, is_receiver=True)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        beside: Callable[[Path], object] | None = None,
        best: int | None = None,
        saved: Callable[[Checkpoint], object] = lambda _: None,
    ) -> None:
        """Begin a checkpoint, to which ``beside`` adds files; ``saving`` says when it is in place.

        The oldest ones are deleted then, but not that of ``best``, and ``saved`` is called by ``saving.check`` or
        ``saving.wait``. Raises what the checkpoint before raised.
        """
        self.saving.wait()
        plan = Plan(
            directory=self._paths.checkpoints,
            step=step,
            state={**state, ALGORITHM_STATE: dict(self.algorithm_state())},
            keep=self._config.checkpoint.keep,
            best=best,
            saved=saved,
        )
        room = int(self._config.checkpoint.buffer_gib * 2**30)
        with self._command(Command.SAVE):
            for rank in self._followers:
                self._engine.links.send_values(rank, values_of([SavePlace.of(plan.partial, room)]))
            self.saving.save(plan, buffer_bytes=room, beside=beside)

    def check(self) -> None:
        """Raise what a publication or a checkpoint that has ended raised."""
        self.publishing.check()
        self.saving.check()

    def wait(self) -> None:
        """Return when the last version is announced and the last checkpoint in place. Raises what went wrong."""
        self.publishing.wait()
        self.saving.wait()

    def close(self) -> None:
        """Remove published files, send STOP to the followers, close this rank's engine."""
        # First, because it needs no other rank: a STOP that fails must not leave the files in shared memory.
        self.end_publishing()
        # Before STOP: the followers write, too.
        self.saving.close(give_up=self._failed)
        if not self._failed:  # after a failed command the followers ended by themselves
            with self._command(Command.STOP):
                pass
        self._engine.close()

    def end_publishing(self) -> None:
        """Let the version on its way end, and remove the published files."""
        self.publishing.close()
        self.publisher.close()

    def _with_proximal(self, batch: OptimizerBatch) -> OptimizerBatch:
        scored = self.logprobs(batch.micro_batches)
        shares = tuple(
            tuple(replace(b, proximal_logprobs=o.logprobs) for b, o in zip(share, outputs, strict=True))
            for share, outputs in zip(batch.micro_batches, scored, strict=True)
        )
        return replace(batch, micro_batches=shares)

    @property
    def _followers(self) -> range:
        return range(1, self._engine.rank_info.world_size)

    @contextmanager
    def _command(self, command: Command, **arguments: Any) -> Iterator[None]:
        """Send the command to the followers; inside the block this rank does its own part of the work."""
        self._commands += 1
        header = Header(command=command, number=self._commands, **arguments)
        try:
            with self._engine.links.attributed(header.title):
                for rank in self._followers:
                    self._engine.links.send(rank, header.encode())
                yield
        except Exception:
            self._failed = True  # the followers saw the same failure and end: none is left to receive STOP
            raise

    def _send(self, shares: Shares, *before: Any) -> None:
        """Each follower its own share, behind the records of ``before``."""
        for rank in self._followers:
            self._engine.links.send_values(rank, values_of([*before, *self._share(shares, rank)]))

    def _share(self, shares: Shares, rank: int) -> Sequence[TokenBatch]:
        return shares[self._group_of(rank)]

    def _group_of(self, rank: int) -> int:
        """Number of the group of ranks that share rows."""
        return rank // self._engine.config.sequence_parallel

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self._events.write("warning", message=f"learner: {message}")


def _copy(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, publication: Publication) -> None:
    for name, tensor in tensors:
        publication.add(name, tensor, published_dtype(tensor, dtype))


def combine(reports: Sequence[StepReport]) -> StepReport:
    """One report of several updates: means over those not skipped, the last state, the sum of the seconds."""
    # A skipped update has no finite numbers to average; if all were skipped, its numbers say so.
    made = [report for report in reports if not report.skipped] or reports
    names = made[0].metrics
    return replace(
        reports[-1],
        loss=sum(report.loss for report in made) / len(made),
        metrics={name: sum(report.metrics[name] for report in made) / len(made) for name in names},
        grad_norm=sum(report.grad_norm for report in made) / len(made),
        skipped=any(report.skipped for report in reports),
        updates=sum(report.updates for report in reports),
        seconds=sum(report.seconds for report in reports),
        tokens=sum(report.tokens for report in reports),
        flops=sum(report.flops for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        planned_bytes=reports[0].planned_bytes,
    )
