"""The model that an algorithm measures the policy's divergence from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.gather import GATHER_BYTES, buckets, gather, gathered, is_partitioned
from rlserve.actors.learner.train.scorer import DTYPES, Scorer, load_model
from rlserve.actors.learner.train.sequence_parallel import SequenceParallel
from rlserve.actors.learner.train.zero import frozen_engine
from rlserve.algorithms.batch import TokenBatch
from rlserve.config.tables.learner import LearnerConfig
from rlserve.models.adapters import without_adapter
from rlserve.models.scored_model import ScoredModel


class Reference:
    """A copy of the model without optimizer or gradient: whole on every rank, in stage 3 partitioned as the policy is.

    Example, scored beside the policy and refreshed from it::

        reference = Reference("start/", config.learner, rank_info)
        (scored,) = reference.score([batch])      # with reference_logprobs
        reference.copy_from(engine.module)        # from now on the present policy is the reference
    """

    def __init__(
        self,
        model_path: str,
        config: LearnerConfig,
        rank_info: RankInfo,
        *,
        parallel: SequenceParallel | None = None,
    ) -> None:
        device = rank_info.device
        model = load_model(model_path, config, device, parallel).requires_grad_(False)
        if not is_partitioned(model):
            model.to(device)
        self.module = model
        self.is_start = True
        """False once ``copy_from`` replaced the weights that the run began with."""
        self._dtype = DTYPES[config.dtype]
        scored = ScoredModel(model, join=None if parallel is None else parallel.joined)
        forward = frozen_engine(scored, config, device) if is_partitioned(model) else None
        self._scorer = Scorer.around(scored, device, forward=forward, parallel=parallel)

    @torch.no_grad()
    def score(self, batches: Sequence[TokenBatch]) -> list[TokenBatch]:
        """The batches with ``reference_logprobs`` filled in."""
        scored = (self._scorer(batch, needs=()) for batch in batches)
        # to host memory, where the batch is, until its own turn on the device
        return [replace(b, reference_logprobs=o.logprobs.cpu()) for b, o in zip(batches, scored, strict=True)]

    @torch.no_grad()
    def copy_from(self, policy: nn.Module) -> None:
        """Copy the policy's weights. Gathers partitioned ones, so all ranks call it."""
        self.is_start = False
        own = dict(self.module.named_parameters())
        # In buckets, so that ZeRO-3 holds only some whole parameters at a time.
        for bucket in buckets(list(policy.named_parameters()), GATHER_BYTES):
            copies = [own[name] for name, _ in bucket]
            with gathered([parameter for _, parameter in bucket]), gathered(copies, changes=True):
                for name, parameter in bucket:
                    own[name].copy_(parameter)

    def weights(self, *, is_receiver: bool) -> Iterator[tuple[str, Tensor]]:
        """Copies of all weights in host memory, by Hugging Face name; every rank must exhaust it."""
        return gather(self.module, self._dtype, is_receiver=is_receiver)


class BaseReference:
    """The policy's own model without its adapters: a reference that takes no memory.

    Scored by the policy's engine, so that all ranks call ``score`` with equally many batches.
    """

    is_start = True
    """It never changes: a checkpoint need not keep it."""

    def __init__(self, engine: LearnerEngine) -> None:
        self._engine = engine

    def score(self, batches: Sequence[TokenBatch]) -> list[TokenBatch]:
        """The batches with ``reference_logprobs`` filled in."""
        with without_adapter(self._engine.module):
            return [replace(b, reference_logprobs=self._engine.logprobs(b, needs=()).logprobs) for b in batches]
