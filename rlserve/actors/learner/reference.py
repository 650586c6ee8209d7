"""The frozen model that an algorithm measures the policy's divergence from."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rlserve.actors.learner.deepspeed_setup import Place
from rlserve.actors.learner.model import Scorer, load_model
from rlserve.algorithms.batch import TokenBatch
from rlserve.config.actors import LearnerConfig


class Reference:
    """A whole copy of the model on every rank, without optimizer or gradient."""

    def __init__(self, model_path: str, config: LearnerConfig, place: Place) -> None:
        model = load_model(model_path, config).to(place.device)
        model.requires_grad_(False)
        self._scorer = Scorer.around(model, model, place.device)

    @torch.no_grad()
    def score(self, batches: Sequence[TokenBatch], *, temperature: float) -> list[TokenBatch]:
        """The batches with ``reference_logprobs``."""
        scored = (self._scorer(batch, temperature=temperature, needs=()) for batch in batches)
        return [replace(b, reference_logprobs=o.logprobs.cpu()) for b, o in zip(batches, scored, strict=True)]
