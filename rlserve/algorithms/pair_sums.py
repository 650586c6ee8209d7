"""Token values summed over the two sequences of each pair. Shape letters: B rows, T tokens, Q pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.masked import sequence_sum
from rlserve.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSums:
    """The pairs of a micro-batch; ``[Q]`` each, 0 where a pair is elsewhere."""

    chosen: Tensor
    """Sum of the policy's log-probabilities over trainable tokens of the chosen sequence."""
    rejected: Tensor
    reference_chosen: Tensor
    """The same under the reference; 0 without one."""
    reference_rejected: Tensor
    chosen_tokens: Tensor
    """Trainable tokens, at least 1."""
    rejected_tokens: Tensor
    weight: Tensor
    """Of the pair's loss in the batch's loss; 0 for pairs that are elsewhere."""


def pair_sums(logprobs: Tensor, batch: TokenBatch, *, needs_reference: bool) -> PairSums:
    """Sums over ``logprobs`` ``[B, T]`` and the batch's reference log-probabilities."""
    if batch.pair_ids is None or batch.preferred is None or batch.weights is None:
        raise InvalidRequest("pair_ids: missing; a loss on pairs needs pair_ids, preferred and weights")
    if needs_reference and batch.reference_logprobs is None:
        raise InvalidRequest("reference_logprobs: missing, but the loss compares with a reference; score the batch")
    pairs, mask = batch.pair_ids, batch.loss_mask
    size = int(pairs.max()) + 1
    reference = batch.reference_logprobs if batch.reference_logprobs is not None else torch.zeros_like(mask)

    def total(values: Tensor, side: Tensor) -> Tensor:
        inside = (mask * side) != 0
        return sequence_sum(torch.where(inside, values, torch.zeros_like(values)), pairs, size)

    chosen, rejected = batch.preferred, 1 - batch.preferred
    ones = torch.ones_like(mask)
    tokens = total(ones, chosen)
    return PairSums(
        chosen=total(logprobs, chosen),
        rejected=total(logprobs, rejected),
        reference_chosen=total(reference, chosen),
        reference_rejected=total(reference, rejected),
        chosen_tokens=tokens.clamp(min=1),
        rejected_tokens=total(ones, rejected).clamp(min=1),
        weight=total(batch.weights.to(mask.dtype), chosen) / tokens.clamp(min=1),
    )
