"""Masked sums and means, and what a loss is divided by.

A denominator is computed from all micro-batches of all ranks before the first forward pass, so that each micro-batch
yields its share and the shares add up to the loss of the optimizer batch. A mean of micro-batch means would be another
objective.

Shape letters: B rows, T tokens, N sequences and P groups of the optimizer batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from rlserve.algorithms.batch import Denominator, TokenBatch
from rlserve.errors import InvalidRequest

AVERAGINGS = (
    "token_mean",
    "sequence_mean_token_mean",
    "sequence_mean_token_sum",
    "constant",
    "prompt_mean",
)
"""Names for ``token_weights``."""


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of ``values`` weighted by ``mask``; values where it is 0 may even be NaN."""
    # where, not a product: NaN * 0 is NaN. In the backward pass, too, masked entries get a gradient of 0.
    return torch.where(mask != 0, values * mask, torch.zeros_like(values)).sum()


def num_sequences(batch: TokenBatch) -> int:
    """One more than the largest sequence number in this micro-batch."""
    return int(batch.sequence_ids.max()) + 1


def sequence_sum(values: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """``[B, T] -> [N]``: sum over the tokens of each sequence; padding (id -1) is left out."""
    # [N + 1]
    sums = values.new_zeros(num_sequences + 1)
    # index -1 falls into the extra bin at the end
    ids = torch.where(sequence_ids < 0, num_sequences, sequence_ids)
    return sums.index_add(0, ids.flatten(), values.flatten())[:num_sequences]


def spread(per_sequence: Tensor, sequence_ids: Tensor) -> Tensor:
    """``[N] -> [B, T]``: each sequence's value on each of its tokens, 0 on padding."""
    # padding has index -1, which selects the 0 appended at the end
    return torch.cat([per_sequence, per_sequence.new_zeros(1)])[sequence_ids]


def denominator(batches: Sequence[TokenBatch], *, num_sequences: int, num_groups: int = 0) -> Denominator:
    """The denominator of ``batches``, as a part of an optimizer batch of N sequences and P groups.

    Parts made from disjoint micro-batches (of other ranks) add up: ``add_denominators``. A sequence without
    trainable tokens counts as a sequence and adds no tokens.
    """
    return add_denominators([_part(batch, num_sequences, num_groups) for batch in batches])


def add_denominators(parts: Sequence[Denominator]) -> Denominator:
    """The denominator of all parts together."""
    return reduce(_add, parts)


def with_reference(before: Denominator, batches: Sequence[TokenBatch]) -> Denominator:
    """The denominator once reference log-probabilities are in ``batches``, all of the optimizer batch."""
    return replace(before, reference_gap=sum(_reference_gap(batch) for batch in batches))


def token_weights(batch: TokenBatch, denominator: Denominator, averaging: str, constant_length: int = 0) -> Tensor:
    """``[B, T]`` weights: the batch's loss is the sum over all tokens of weight times token loss.

    With m the mask, n tokens of the sequence (at least 1), N sequences, g tokens of the group, P groups
    that have tokens:

    * ``token_mean``: m / all tokens
    * ``sequence_mean_token_mean``: m / (n N)
    * ``sequence_mean_token_sum``: m / N
    * ``constant``: m / (N constant_length), Dr. GRPO (arXiv:2503.20783)
    * ``prompt_mean``: m / (g P), ScaleRL (arXiv:2510.13786)
    """
    mask = batch.loss_mask
    if averaging == "token_mean":
        return mask / max(denominator.tokens, 1.0)
    sequences = max(denominator.sequences, 1.0)
    if averaging == "sequence_mean_token_sum":
        return mask / sequences
    if averaging == "constant":
        return mask / (sequences * constant_length)
    if averaging == "sequence_mean_token_mean":
        # The denominator is made on the CPU, before the batch goes to its device.
        lengths = denominator.tokens_per_sequence.to(mask.device).clamp(min=1.0)
        return mask / spread(lengths, batch.sequence_ids).clamp(min=1.0) / sequences
    if averaging == "prompt_mean":
        return _prompt_mean(batch, denominator)
    raise InvalidRequest(f"averaging: {averaging!r} is not known; take one of {', '.join(AVERAGINGS)}")


def _prompt_mean(batch: TokenBatch, denominator: Denominator) -> Tensor:
    if batch.group_ids is None or denominator.tokens_per_group is None:
        raise InvalidRequest("averaging: prompt_mean needs group_ids in every micro-batch")
    tokens = denominator.tokens_per_group.to(batch.loss_mask.device)
    groups = (tokens > 0).sum().clamp(min=1)  # groups without trainable tokens would dilute the others
    return batch.loss_mask / spread(tokens, batch.group_ids).clamp(min=1.0) / groups


def _part(batch: TokenBatch, num_sequences: int, num_groups: int) -> Denominator:
    mask = batch.loss_mask.float()
    # [N] bool; by presence, not by trainable tokens: a sequence that is all masked still counts in the mean.
    present = sequence_sum((batch.sequence_ids >= 0).float(), batch.sequence_ids, num_sequences) > 0
    groups = batch.group_ids
    preferred = mask * batch.preferred if batch.preferred is not None else mask.new_zeros(())
    return Denominator(
        tokens=float(mask.sum()),
        sequences=float(present.sum()),
        tokens_per_sequence=sequence_sum(mask, batch.sequence_ids, num_sequences),
        tokens_per_group=None if groups is None else sequence_sum(mask, groups, num_groups),
        preferred_tokens=float(preferred.sum()),
        teacher_tokens=_sum(batch.teacher_mask),
        supervised_tokens=_sum(batch.supervised_mask),
        reference_gap=_reference_gap(batch),
    )


def _add(left: Denominator, right: Denominator) -> Denominator:
    groups = (left.tokens_per_group, right.tokens_per_group)
    return Denominator(
        tokens=left.tokens + right.tokens,
        sequences=left.sequences + right.sequences,
        tokens_per_sequence=left.tokens_per_sequence + right.tokens_per_sequence,
        tokens_per_group=groups[0] + groups[1] if groups[0] is not None and groups[1] is not None else None,
        preferred_tokens=left.preferred_tokens + right.preferred_tokens,
        teacher_tokens=left.teacher_tokens + right.teacher_tokens,
        supervised_tokens=left.supervised_tokens + right.supervised_tokens,
        reference_gap=left.reference_gap + right.reference_gap,
    )


def _sum(mask: Tensor | None) -> float:
    return 0.0 if mask is None else float(mask.sum())


def _reference_gap(batch: TokenBatch) -> float:
    if batch.reference_logprobs is None:
        return 0.0
    # The behaviour's log-probabilities, not the policy's: they are known before the first forward pass.
    return float(masked_sum(batch.behavior_logprobs - batch.reference_logprobs, batch.loss_mask))
