"""What the loop asks of training: step, publish, save; over one rank or many."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlserve.actors.learner.checkpoint import Checkpoint
from rlserve.actors.learner.deepspeed_setup import Place
from rlserve.actors.learner.engine import LearnerEngine, StepReport
from rlserve.actors.learner.model import DTYPES
from rlserve.actors.learner.ranks import Leader, Rank, needs_reference
from rlserve.actors.learner.reference import Reference
from rlserve.algorithms import registry
from rlserve.algorithms.base import Algorithm, Stateful
from rlserve.batching.collate import OptimizerBatch
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import EventLog
from rlserve.policy.host import SHARED_MEMORY
from rlserve.policy.publisher import Publisher

logger = logging.getLogger(__name__)

ALGORITHM_STATE = "algorithm"
POLICY_OUTPUTS = frozenset({"entropy", "entropy_gradient", "log_partition"})
"""Needs that a batch without teacher or reference can meet."""


def create_rank(
    config: RunConfig, *, start_model: str, model_path: str, checkpoint: Checkpoint | None, place: Place
) -> Rank:
    """This process's share of the learner; every rank makes its own.

    ``start_model`` is what the run began with (the reference, when the algorithm needs one), ``model_path`` what
    it goes on with, ``checkpoint`` where optimizer and random state come from.
    """
    engine = LearnerEngine(model_path, config.learner, seed=config.seed, place=place)
    algorithm = registry.create(config.algorithm)
    if checkpoint is not None:
        checkpoint.restore(engine)
        if isinstance(algorithm, Stateful):
            algorithm.restore(checkpoint.state.get(ALGORITHM_STATE, {}))
    engine.rehearse(
        width=config.model.max_length,
        trained=config.rollout.max_new_tokens,
        needs=algorithm.needs & POLICY_OUTPUTS,
    )
    beside = needs_reference(algorithm) and not config.reference.teacher
    kept = checkpoint.reference_path if checkpoint is not None else None
    reference = Reference(str(kept or start_model), config.learner, place) if beside else None
    if reference is not None:
        reference.is_start = kept is None
    return Rank(engine=engine, algorithm=algorithm, reference=reference)


class Trainer:
    """Rank 0: leads the others, publishes weights, writes checkpoints."""

    def __init__(self, config: RunConfig, paths: RunPaths, rank: Rank) -> None:
        self._config = config
        self._paths = paths
        self._leader = Leader(rank)
        self.algorithm: Algorithm = rank.algorithm
        self.served_reference = config.reference.teacher if needs_reference(rank.algorithm) else ""
        """Teacher that scores for the reference; empty when it is held here, or not needed."""
        self.vocabulary = rank.engine.vocabulary
        """Rows of the policy's embedding: token ids lie below."""
        self._events = EventLog(paths.events)
        self.publisher = Publisher(SHARED_MEMORY, fallback=paths.root, run_id=config.name, warn=self._warn)

    def train(self, batches: Sequence[OptimizerBatch], *, passes: int, lr: float) -> StepReport:
        """One update a batch, ``passes`` times over; the report of all of them together.

        With more than one update each batch is scored before the first: that policy is the proximal one.
        """
        if len(batches) * passes > 1:
            batches = [self._with_proximal(batch) for batch in batches]
        reports = [self._leader.step(batch, lr=lr) for _ in range(passes) for batch in batches]
        return reports[0] if len(reports) == 1 else combine(reports)

    def reach(self, batch: OptimizerBatch) -> float:
        """How hard the batch's loss pulls at the policy; see ``LearnerEngine.reach``."""
        return self._leader.reach(batch)

    def is_sound(self, batch: OptimizerBatch) -> bool:
        """Whether the policy's log-probabilities of the batch are finite."""
        scored = self._leader.logprobs(batch.micro_batches)
        return all(bool(torch.isfinite(outputs.logprobs).all()) for share in scored for outputs in share)

    def memory(self) -> Mapping[str, float]:
        """What the algorithm keeps from batch to batch, for ``forget``."""
        return self.algorithm.state() if isinstance(self.algorithm, Stateful) else {}

    def forget(self, memory: Mapping[str, float]) -> None:
        """Make the algorithm's memory what it was: batches that were looked at since taught nothing."""
        if isinstance(self.algorithm, Stateful):
            self.algorithm.restore(memory)

    def _with_proximal(self, batch: OptimizerBatch) -> OptimizerBatch:
        scored = self._leader.logprobs(batch.micro_batches)
        shares = tuple(
            tuple(replace(b, proximal_logprobs=o.logprobs) for b, o in zip(share, outputs, strict=True))
            for share, outputs in zip(batch.micro_batches, scored, strict=True)
        )
        return replace(batch, micro_batches=shares)

    def set_unmatched(self, tokens: Tensor) -> None:
        """Say which tokens ``[V]`` (bool) a teacher with another tokenizer has not."""
        self._leader.set_unmatched(tokens)

    def refresh_reference(self) -> None:
        """Make the present policy the reference, on every rank."""
        self._leader.refresh_reference()

    @property
    def has_reference(self) -> bool:
        """Whether a copy of the reference is held here."""
        return self._leader.has_reference

    def publish(self, version: int) -> None:
        """Make the present weights the version that workers fetch."""
        dtype = DTYPES[self._config.learner.publish_dtype or self._config.rollout.dtype]
        self.publisher.publish(self._leader.weights(dtype), version, size_bytes=self._leader.weight_bytes(dtype))

    def save(self, step: int, state: Mapping[str, Any], beside: Callable[[Path], object] | None = None) -> None:
        """Write a checkpoint, with what ``beside`` adds to it, and drop the oldest."""
        saved = self._leader.save(
            self._paths.checkpoints,
            step,
            {**state, ALGORITHM_STATE: dict(self.memory())},
            keep=self._config.checkpoint.keep,
            beside=beside,
        )
        logger.info("saved %s", saved.path)

    def close(self) -> None:
        """Remove published files and let all ranks end."""
        self.publisher.close()
        self._leader.close()

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self._events.write("warning", message=f"learner: {message}")


def combine(reports: Sequence[StepReport]) -> StepReport:
    """Several updates as one: means of what was measured in those that were made, the last state, all the time."""
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
    )
