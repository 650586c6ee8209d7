"""Every family's loss in one learner: which one trains a batch is written into the batch."""

from dataclasses import replace
from typing import Any

import torch

from rlserve.algorithms import registry
from rlserve.algorithms.batch import Denominator, LossOutput, PolicyOutputs, TokenBatch
from rlserve.config.algorithms.distillation import DistillConfig, MixedConfig
from rlserve.config.algorithms.policy_gradient import CispoConfig, GrpoConfig, GspoConfig, ReinforceConfig
from rlserve.config.algorithms.preference import DpoConfig, KtoConfig, OrpoConfig
from tests.support.models.learner_work import random_batch

TOP = 4
FAMILIES: tuple[Any, ...] = (
    GrpoConfig(entropy_coefficient=0.1, z_loss_coefficient=1e-3, kl={"coefficient": 0.1}),
    CispoConfig(averaging="prompt_mean"),
    GspoConfig(clip_low=0.2, clip_high=0.2),
    ReinforceConfig(averaging="sequence_mean_token_mean"),
    DpoConfig(nll_coefficient=0.1),
    DpoConfig(loss="ipo", length_normalized=True),
    OrpoConfig(),
    KtoConfig(),
    DistillConfig(),
    DistillConfig(estimator="top_k", beta=0.5, k=TOP),
    MixedConfig(reward=GrpoConfig(), distill=DistillConfig(), supervised_weight=0.3),
)


class Several:
    """The algorithm whose number is the lag of the batch's tokens; lag enters no loss."""

    def __init__(self) -> None:
        self._algorithms = [registry.create(config) for config in FAMILIES]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(algorithm.needs for algorithm in self._algorithms))

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        out = self._algorithms[int(batch.lag.max())].loss(outputs, batch, denominator)
        return LossOutput(out.loss, {"entropy": out.metrics["entropy"]})


def family_batch(number: int) -> TokenBatch:
    """Sixteen sequences with everything that any family asks for; neighbours are pairs."""
    batch = random_batch(number)
    generator = torch.Generator().manual_seed(number)
    shape, mask = batch.token_ids.shape, batch.loss_mask
    here = batch.sequence_ids >= 0
    teacher = torch.randn(*shape, 64, generator=generator).log_softmax(-1)
    top = teacher.topk(TOP, dim=-1)
    return replace(
        batch,
        lag=torch.full(shape, number) * here,
        pair_ids=torch.where(here, batch.sequence_ids // 2, -1),
        preferred=((batch.sequence_ids % 2 == 0) & here).float(),
        weights=torch.where(here, 1 / 8, 0.0),
        teacher_mask=mask,
        teacher_logprobs=teacher.gather(-1, batch.token_ids[..., None])[..., 0] * mask,
        teacher_top_ids=top.indices,
        teacher_top_logprobs=top.values,
        teacher_log_tail=torch.log1p(-top.values.exp().sum(-1)),
        supervised_mask=mask * 0.5,
    )
