"""Plain REINFORCE: -c A l, c a constant correction of policy over behaviour.

``importance = "off"`` sets c = 1, which is right on policy only. With ``token_truncate`` the loss is CISPO's.
Several steps per batch need no proximal log-probabilities: the correction is from the behaviour policy to
the one in training, whatever lies between.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlserve.algorithms import corrections, metrics, policy_gradient, ratios
from rlserve.algorithms.batch import Denominator, LossOutput, PolicyOutputs, TokenBatch
from rlserve.algorithms.policy_gradient import PolicyGradient, Surrogate
from rlserve.config.algorithms.policy_gradient import ReinforceConfig


class Reinforce(PolicyGradient[ReinforceConfig]):
    """Registered as ``reinforce``."""

    proportional = True

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """See ``reinforce.loss``."""
        return loss(outputs, batch, denominator, self.config)


def loss(outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator, config: ReinforceConfig) -> LossOutput:
    """This micro-batch's share of the loss."""
    mask = batch.loss_mask
    trained = torch.where(mask != 0, outputs.logprobs, torch.zeros_like(outputs.logprobs))
    whole_ratio = ratios.log_ratio(outputs.logprobs.detach(), batch.behavior_logprobs, mask)
    weight = corrections.importance_weight(whole_ratio, batch, config)

    def surrogate(_: Tensor, advantages: Tensor, batch: TokenBatch) -> Surrogate:
        return Surrogate(
            token_loss=-weight * advantages * trained,
            metrics={"correction_mean": metrics.mean(weight, batch.loss_mask)},
        )

    single = replace(batch, proximal_logprobs=None)
    return policy_gradient.loss(outputs, single, denominator, config, surrogate)
