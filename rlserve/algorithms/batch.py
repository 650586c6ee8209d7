"""Tensors that go into an algorithm and come out of it.

Shape letters: B rows, T tokens in a row, N sequences and P groups of the optimizer batch, K tokens of a
teacher's support. A row holds one sequence, or several when packed. Entry ``[b, t]`` is about token t
itself, which is predicted from the tokens before it; the first token of a sequence is never trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_args

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PerToken:
    """Marks a field of shape ``[B, T]`` or ``[B, T, K]``: it is cut to the columns that the model scores.

    A tensor without the mark is carried along as it is, e.g. one of shape ``[B]``.
    """

    scored_unless: float | None = None
    """The model scores each token where the field has another value than this; None: it asks for no score."""


TokenValues = Annotated[Tensor, PerToken()]
TokenMask = Annotated[Tensor, PerToken(scored_unless=0)]
SpanIds = Annotated[Tensor, PerToken(scored_unless=-1)]


def per_token_fields(record: Any) -> Mapping[str, PerToken]:
    """The marked fields of a dataclass of tensors, by name."""
    marks = {f.name: _mark(f.type) for f in fields(record)}
    return {name: mark for name, mark in marks.items() if mark is not None}


def _mark(hint: Any) -> PerToken | None:
    # An optional field is a union, and the mark stands on one of its members.
    found = (part for part in (hint, *get_args(hint)) for part in getattr(part, "__metadata__", ()))
    return next((mark for mark in found if isinstance(mark, PerToken)), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """One micro-batch. The denominators of the loss belong to the whole optimizer batch, not to it.

    Between ranks a batch travels as its fields in order (``tensor_wire``): each is a tensor, a float or None.
    """

    token_ids: TokenValues
    """``[B, T]`` int64, padded on the right."""
    position_ids: TokenValues
    """``[B, T]`` int64; restart at 0 with each packed sequence."""
    sequence_ids: TokenValues
    """``[B, T]`` int64: number of the sequence in the optimizer batch, 0..N-1; -1 on padding."""
    loss_mask: TokenMask
    """``[B, T]`` float32: 1 on tokens sampled by the policy (and not masked for another reason), else 0."""
    behavior_logprobs: TokenValues
    """``[B, T]`` float32: log-probability under the weights that sampled; 0 where ``loss_mask`` is 0."""
    advantages: TokenValues
    """``[B, T]`` float32, no gradient."""
    lag: TokenValues
    """``[B, T]`` int64: versions between the weights in training and those that sampled; 0 elsewhere."""
    temperatures: TokenValues | None = None
    """``[B, T]`` float32: temperature at which the token was sampled, and is scored; None: 1 everywhere."""
    proximal_logprobs: TokenValues | None = None
    """``[B, T]`` float32: log-probability before the first step of the batch; None when it serves one step."""
    was_given: TokenValues | None = None
    """``[B, T]`` bool: of a completion that the policy did not sample: its behaviour log-probability is unknown."""
    group_ids: TokenValues | None = None
    """``[B, T]`` int64: number of the group (prompt) in the optimizer batch, 0..P-1; -1 on padding."""

    reference_logprobs: TokenValues | None = None
    """``[B, T]`` float32: under the frozen reference model; None unless ``needs`` names it."""

    pair_ids: TokenValues | None = None
    """``[B, T]`` int64: number of the sequence's pair; -1 without one. A pair is in one micro-batch."""
    preferred: TokenValues | None = None
    """``[B, T]`` float32: 1 on chosen and on good sequences, else 0."""
    weights: TokenValues | None = None
    """``[B, T]`` float32: weight of the token's sequence or pair in the batch's loss; 0 on padding."""

    teacher_mask: TokenMask | None = None
    """``[B, T]`` float32: weight of the token under distillation, 0 where no teacher scored it."""
    teacher_logprobs: TokenValues | None = None
    """``[B, T]`` float32: the teacher's log-probability of token t; with spans, of the span on its first token."""
    span_ids: SpanIds | None = None
    """``[B, T]`` int64: number of the token's span in the micro-batch; -1 without one. None: each token is a span."""
    teacher_top_ids: TokenValues | None = None
    """``[B, T, K]`` int64: the teacher's most likely tokens at t, as tokens of the policy; -1 for one missing from the
    policy's vocabulary. With spans they are at each span's last token, see ``divergences``."""
    teacher_top_logprobs: TokenValues | None = None
    """``[B, T, K]`` float32; -infinity behind the last of fewer than K."""
    teacher_log_tail: TokenValues | None = None
    """``[B, T]`` float32: log of the mass outside the top K; -infinity when the top K is everything."""
    shared_fraction: TokenValues | None = None
    """``[B, T]`` float32: share of the teacher's vocabulary that the policy shares; set with ``span_ids``."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's top K, and of the policy's log-probabilities of those tokens."""
    supervised_mask: TokenMask | None = None
    """``[B, T]`` float32: weight of the token's cross-entropy under the supervised objective."""

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The same micro-batch on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        # None and floats stay as they are.
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyOutputs:
    """Results of the forward pass for each token; a field not in the algorithm's ``needs`` is None."""

    logprobs: TokenValues
    """``[B, T]`` with gradient; 0 on the first token of a sequence and on padding."""
    entropy: TokenValues | None = None
    """``[B, T]`` nats, of the distribution that predicts token t."""
    log_partition: TokenValues | None = None
    """``[B, T]`` with gradient: logsumexp of the logits (before temperature) that predict token t."""
    top_logprobs: TokenValues | None = None
    """``[B, T, K]`` with gradient: at the batch's ``teacher_top_ids``, at its ``teacher_temperature``."""
    unshared_logprobs: TokenValues | None = None
    """``[B, T, R]`` with gradient, falling: the likeliest policy tokens missing from the teacher's vocabulary, at the
    same temperature; R is 0 when none is missing."""
    log_unshared: TokenValues | None = None
    """``[B, T]`` with gradient: log of the mass of all missing tokens; -infinity when none is missing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupOutcome:
    """A group as an algorithm sees it before the forward pass: G trajectories, in its order."""

    rewards: Tensor
    """``[G]`` float64, as verified; 0 where there is no verdict."""
    scored: Tensor
    """``[G]`` bool: False where the verifier reached no verdict, or nothing was sampled."""
    lengths: Tensor
    """``[G]`` int64, sampled tokens."""
    truncated: Tensor
    """``[G]`` bool: ended by the length limit."""
    length_limit: int
    """Sampled tokens after which a completion is cut."""
    mode: str = ""
    """The task's label ``mode``, e.g. ``"think"``; empty when it has none."""
    roles: Tensor | None = None
    """``[G]`` int64: 1 chosen, -1 rejected, 0 neither, for pairs made offline."""
    pair_numbers: Tensor | None = None
    """``[G]`` int64: number that chosen and rejected of an offline pair share."""
    seed: int = 0
    """Seed of random choices, made from the group's id: the same group makes the same choices."""
    taught: Tensor | None = None
    """``[G]`` bool: a teacher to distil from scored it."""
    supervised: Tensor | None = None
    """``[G]`` bool: it has tokens of the supervised objective."""
    given: Tensor | None = None
    """``[G]`` bool: the policy did not sample it, so its behaviour log-probabilities are unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One sequence of the optimizer batch: a trajectory and what it is trained for."""

    group: int
    """Position among the groups."""
    trajectory_index: int
    """Position of the trajectory in its group."""
    advantage: float = 0.0
    """Advantage of each of its trainable tokens."""
    pair: int = -1
    """Number of its pair in the optimizer batch; -1 without one."""
    preferred: bool = False
    """It is the chosen one of its pair, or a good completion."""
    weight: float = 1.0
    """Weight of its pair's loss, or of its own, in the batch's loss."""
    trains_policy: bool = True
    """Whether ``loss_mask`` is set on its sampled tokens; otherwise only other objectives train it."""
    has_gradient: bool = True
    """False: its loss has no gradient. It counts in every denominator, and the model is not run on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominator:
    """Divisors of the summed token losses, computed over the whole optimizer batch."""

    tokens: float
    """Trainable tokens of all micro-batches and ranks."""
    sequences: float
    """Sequences of all micro-batches and ranks."""
    tokens_per_sequence: Tensor
    """``[N]`` float32: trainable tokens of each sequence."""
    tokens_per_group: Tensor | None = None
    """``[P]`` float32: trainable tokens of each group; None when the batches carry no ``group_ids``."""
    preferred_tokens: float = 0.0
    """Trainable tokens of preferred sequences."""
    teacher_tokens: float = 0.0
    """Sum of ``teacher_mask``."""
    supervised_tokens: float = 0.0
    """Sum of ``supervised_mask``."""
    reference_gap: float = 0.0
    """Sum of behaviour less reference log-probability over all trainable tokens; see ``masked.with_reference``."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A part of a logged number, with the way to merge it over micro-batches and ranks (``metrics.merge``)."""

    value: Tensor
    """Sum (for ``mean`` and ``sum``) or extreme (for ``max`` and ``min``); scalar, no gradient.
    For ``ess`` and ``std`` two sums, ``[2]``: of the values and of their squares."""
    weight: Tensor | None = None
    """Divisor of the merged sum for ``mean``; number of values for ``ess`` and ``std``."""
    merge: str = "mean"
    """``"mean"``, ``"sum"``, ``"max"``, ``"min"``, ``"ess"`` (effective sample size) or ``"std"``."""


@dataclass(frozen=True, slots=True, eq=False)
class LossOutput:
    """This micro-batch's share of the loss: shares of all micro-batches add up to the batch's loss."""

    loss: Tensor
    """Scalar with gradient."""
    metrics: Mapping[str, Metric]


TokenLoss = tuple[Tensor, Mapping[str, Metric]]
"""(``[B, T]`` loss of each token before averaging, with gradient; metrics)."""
