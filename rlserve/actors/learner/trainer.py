"""What the loop asks of training: step, publish, save; over one rank or many."""

import logging
from collections.abc import Mapping
from typing import Any

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
from rlserve.policy.host import shared_directory
from rlserve.policy.publisher import Publisher

logger = logging.getLogger(__name__)

ALGORITHM_STATE = "algorithm"


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
    reference = Reference(start_model, config.learner, place) if needs_reference(algorithm) else None
    return Rank(engine=engine, algorithm=algorithm, reference=reference)


class Trainer:
    """Rank 0: leads the others, publishes weights, writes checkpoints."""

    def __init__(self, config: RunConfig, paths: RunPaths, rank: Rank) -> None:
        self._config = config
        self._paths = paths
        self._leader = Leader(rank)
        self.algorithm: Algorithm = rank.algorithm
        self.publisher = Publisher(shared_directory(paths.root), run_id=config.name)

    def step(self, batch: OptimizerBatch, *, lr: float) -> StepReport:
        """One optimizer step on all micro-batches of all ranks."""
        return self._leader.step(batch, temperature=self._config.rollout.temperature, lr=lr)

    def publish(self, version: int) -> None:
        """Make the present weights the version that workers fetch."""
        dtype = DTYPES[self._config.learner.publish_dtype or self._config.rollout.dtype]
        self.publisher.publish(self._leader.weights(dtype), version)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint and drop the oldest."""
        memory = self.algorithm.state() if isinstance(self.algorithm, Stateful) else {}
        saved = self._leader.save(
            self._paths.checkpoints, step, {**state, ALGORITHM_STATE: memory}, keep=self._config.checkpoint.keep
        )
        logger.info("saved %s", saved.path)

    def close(self) -> None:
        """Remove published files and let all ranks end."""
        self.publisher.close()
        self._leader.close()
