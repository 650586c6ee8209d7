"""CISPO: -min(w, max_ratio) A l, the cut ratio a constant (MiniMax-M1, arXiv:2506.13585; ScaleRL).

No token loses its gradient, as a clipped one would; no lower bound. ``max_ratio`` bounds the ratio itself:
other code bases pass 1 + epsilon here.
"""

import torch
from torch import Tensor

from rlserve.algorithms import metrics, policy_gradient
from rlserve.algorithms.batch import Denominator, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.policy_gradient import PolicyGradient, Surrogate
from rlserve.config.algorithms.policy_gradient import CispoConfig


class Cispo(PolicyGradient[CispoConfig]):
    """Registered as ``cispo``."""

    proportional = True

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``cispo.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: CispoConfig) -> LossOutput:
    """This micro-batch's share of the loss."""
    trained = torch.where(batch.loss_mask != 0, outputs.logprobs, torch.zeros_like(outputs.logprobs))

    def surrogate(log_ratio: Tensor, advantages: Tensor, batch: TokenBatch) -> Surrogate:
        ratio = log_ratio.detach().exp()
        cut = (ratio > config.max_ratio).to(ratio.dtype)
        return Surrogate(
            token_loss=-ratio.clamp(max=config.max_ratio) * advantages * trained,
            metrics={"ratio_cut": metrics.mean(cut, batch.loss_mask)},
        )

    return policy_gradient.loss(outputs, batch, denominator, config, surrogate)
