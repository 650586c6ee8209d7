"""Tensors an algorithm sees and returns.

Shape letters: B rows, T tokens in a row, N sequences of the optimizer batch. A row holds one sequence, or
several when packed. Entry ``[b, t]`` is about token t itself, which is predicted from the tokens before it;
the first token of a sequence is never trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """One micro-batch. The denominators of the loss belong to the whole optimizer batch, not to it."""

    token_ids: Tensor
    """``[B, T]`` int64, padded on the right."""
    position_ids: Tensor
    """``[B, T]`` int64; restart at 0 with each packed sequence."""
    sequence_ids: Tensor
    """``[B, T]`` int64: number of the sequence in the optimizer batch, 0..N-1; -1 on padding."""
    loss_mask: Tensor
    """``[B, T]`` float32: 1 on tokens sampled by the policy (and not masked for another reason), else 0."""
    behavior_logprobs: Tensor
    """``[B, T]`` float32: log-probability under the weights that sampled; 0 where ``loss_mask`` is 0."""
    advantages: Tensor
    """``[B, T]`` float32, no gradient."""
    lag: Tensor
    """``[B, T]`` int64: versions between the weights in training and those that sampled; 0 elsewhere."""
    proximal_logprobs: Tensor | None = None
    """``[B, T]`` float32: log-probability at the start of the optimizer batch; None: the behaviour's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominator:
    """What the summed token losses are divided by, computed over the whole optimizer batch."""

    tokens: float
    """Trainable tokens of all micro-batches and ranks."""
    sequences: float
    """Sequences of all micro-batches and ranks."""
    tokens_per_sequence: Tensor
    """``[N]`` float32: trainable tokens of each sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A number on its way to the log: how to merge it over micro-batches and ranks."""

    value: Tensor
    """Sum (for ``mean`` and ``sum``) or extreme (for ``max`` and ``min``); scalar, no gradient."""
    weight: Tensor | None = None
    """For ``mean``: what the merged sum is divided by."""
    merge: str = "mean"
    """``"mean"``, ``"sum"``, ``"max"`` or ``"min"``."""


@dataclass(frozen=True, slots=True, eq=False)
class LossOutput:
    """This micro-batch's share of the loss: shares of all micro-batches add up to the batch's loss."""

    loss: Tensor
    """Scalar with gradient."""
    metrics: Mapping[str, Metric]
