"""Base of the preference family on pairs: selects chosen and rejected completions, and sums a batch over its pairs.

Selection is pure: randomness comes from the group's seed. Only scored trajectories take part. A tie makes no pair,
since noise would decide it. A member of the family is one function, ``pair_loss``: the loss of each pair from its sums.

Shape letters: G trajectories of a group, B rows, T tokens, Q pairs of a micro-batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlserve.algorithms import metrics
from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    Metric,
    PolicyOutputs,
    TokenBatch,
)
from rlserve.algorithms.masked import masked_sum, sequence_sum
from rlserve.config.algorithms.preference import PairedConfig, PairsConfig
from rlserve.errors import InvalidRequest

C = TypeVar("C", bound=PairedConfig)

Pair = tuple[int, int]
"""(chosen, rejected), positions in the group."""


def select(outcome: GroupOutcome, config: PairsConfig) -> list[Pair]:
    """At most ``pairs_per_group`` pairs of a group; an empty list when its rewards do not differ enough."""
    if config.selection == "given":
        return given(outcome)[: config.pairs_per_group]
    candidates = admissible(outcome, config)
    if config.selection == "best_worst":
        return best_worst(outcome, candidates)
    # From the group's id: why_drop and prepare must see the same pairs, also after a resume.
    generator = np.random.default_rng(outcome.seed)
    order = generator.permutation(len(candidates))[: config.pairs_per_group]
    return [candidates[i] for i in sorted(order)]  # sorted: which pairs is random, their order is not


def why_drop(outcome: GroupOutcome, config: PairsConfig) -> str | None:
    """``"no_verdict"``, ``"all_correct"``, ``"all_wrong"``, ``"tie"``, ``"no_pair"``, or None."""
    if select(outcome, config):
        return None
    if config.selection == "given":
        return "no_pair"
    rewards = outcome.rewards[outcome.scored]
    if rewards.numel() < 2:
        return "no_verdict"
    if bool((rewards >= config.correct_reward).all()):
        return "all_correct"
    if bool((rewards < config.correct_reward).all()) and config.selection == "random":
        return "all_wrong"
    return "tie" if float(rewards.max() - rewards.min()) <= config.margin else "no_pair"


def admissible(outcome: GroupOutcome, config: PairsConfig) -> list[Pair]:
    """All pairs that the settings allow, in order; under ``random`` the chosen is right and the rejected wrong."""
    rewards, truncated = outcome.rewards.tolist(), outcome.truncated.tolist()
    scored = [i for i, is_scored in enumerate(outcome.scored.tolist()) if is_scored]
    pairs = [
        (i, j)
        for i in scored
        for j in scored
        # A completion that was cut has no end to imitate; as the rejected one it teaches not to ramble.
        if rewards[i] - rewards[j] > config.margin and (config.truncated_chosen or not truncated[i])
    ]
    if config.selection == "random":
        return [(i, j) for i, j in pairs if rewards[i] >= config.correct_reward > rewards[j]]
    return pairs


def best_worst(outcome: GroupOutcome, candidates: Sequence[Pair]) -> list[Pair]:
    """The pair with the widest margin; among equals the one nearest in length, so that length is not learned."""
    rewards, lengths = outcome.rewards.tolist(), outcome.lengths.tolist()
    widest = min(
        candidates,
        # the pair itself last, so that equal candidates do not depend on their order
        key=lambda pair: (rewards[pair[1]] - rewards[pair[0]], abs(lengths[pair[0]] - lengths[pair[1]]), pair),
        default=None,
    )
    return [] if widest is None else [widest]


def given(outcome: GroupOutcome) -> list[Pair]:
    """Pairs made offline: chosen and rejected trajectories of the same pair number."""
    if outcome.roles is None or outcome.pair_numbers is None:
        return []
    roles, numbers, lengths = outcome.roles.tolist(), outcome.pair_numbers.tolist(), outcome.lengths.tolist()
    filled = [i for i, length in enumerate(lengths) if length > 0]  # an empty completion has nothing to train on
    return [(i, j) for i in filled for j in filled if roles[i] == 1 and roles[j] == -1 and numbers[i] == numbers[j]]


def prepare(outcomes: Sequence[GroupOutcome], config: PairedConfig) -> list[Assignment]:
    """Two assignments a pair, chosen first; the weights of all pairs sum to 1.

    A trajectory of several pairs gets an assignment for each.
    """
    chosen = [select(outcome, config.pairs) for outcome in outcomes]
    prompts, total = sum(1 for pairs in chosen if pairs), sum(map(len, chosen))
    assignments: list[Assignment] = []
    for group, pairs in enumerate(chosen):
        for pair in pairs:
            weight = 1 / total if config.averaging == "pair_mean" else 1 / (prompts * len(pairs))
            # Two assignments per pair: numbers run over the whole batch, and tell pairs of one micro-batch apart.
            number = len(assignments) // 2
            assignments += [
                Assignment(group=group, trajectory_index=index, pair=number, preferred=side == 0, weight=weight)
                for side, index in enumerate(pair)
            ]
    return assignments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSums:
    """Sums over the two sequences of each pair; ``[Q]`` each, 0 for pairs of other micro-batches."""

    chosen: Tensor
    """Sum of the policy's log-probabilities over trainable tokens of the chosen sequence."""
    rejected: Tensor
    reference_chosen: Tensor
    """Sum of the reference's log-probabilities over the same tokens; 0 without a reference."""
    reference_rejected: Tensor
    chosen_tokens: Tensor
    """Trainable tokens, at least 1."""
    rejected_tokens: Tensor
    weight: Tensor
    """Weight of the pair's loss in the batch's loss; 0 for pairs of other micro-batches."""


@dataclass(frozen=True, slots=True, eq=False)
class PairLoss:
    """Losses and implicit rewards of the pairs; ``[Q]`` each."""

    losses: Tensor
    """With gradient."""
    chosen_reward: Tensor
    """Implicit reward of the chosen completion, for metrics."""
    rejected_reward: Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairAlgorithm(Generic[C]):
    """Base of the registered losses on pairs, which add ``pair_loss``."""

    needs_reference: ClassVar[bool] = False
    """The loss compares with the reference model's log-probabilities."""
    config: C

    def pair_loss(self, sums: PairSums) -> PairLoss:
        """The losses of the pairs of a micro-batch."""
        raise NotImplementedError(f"{type(self).__name__}: has no pair_loss; see rlserve.algorithms.pairs")

    @property
    def nll_coefficient(self) -> float:
        """Weight of the chosen completions' cross-entropy, a mean over their tokens."""
        return 0.0

    @property
    def needs(self) -> frozenset[str]:
        """The reference's log-probabilities where the loss compares with it, and entropy as a metric."""
        return frozenset({"entropy", "reference_logprobs"} if self.needs_reference else {"entropy"})

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """The word for a group that makes no pair; None when it makes one."""
        return why_drop(outcome, self.config.pairs)

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """Two assignments a pair, chosen first."""
        return prepare(outcomes, self.config)

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share: each pair's loss times its weight, and the chosen completions' cross-entropy."""
        sums = pair_sums(outputs.logprobs, batch, needs_reference=self.needs_reference)
        made = self.pair_loss(sums)
        # the second term is 0: it gives a micro-batch without pairs a gradient of zeros
        total = (made.losses * sums.weight).sum() + 0.0 * masked_sum(outputs.logprobs, batch.loss_mask)
        if self.nll_coefficient:
            total = total + self.nll_coefficient * _chosen_nll(outputs.logprobs, batch, denominator)
        return LossOutput(total, {**metrics.off_policy(outputs, batch), **_measure(sums, made)})


def pair_sums(logprobs: Tensor, batch: TokenBatch, *, needs_reference: bool) -> PairSums:
    """Sums over ``logprobs`` ``[B, T]`` and the batch's reference log-probabilities."""
    if batch.pair_ids is None or batch.preferred is None or batch.weights is None:
        raise InvalidRequest("pair_ids: missing; a loss on pairs needs pair_ids, preferred and weights")
    if needs_reference and batch.reference_logprobs is None:
        raise InvalidRequest("reference_logprobs: missing, but the loss compares with a reference; score the batch")
    pairs, mask = batch.pair_ids, batch.loss_mask
    # 0 for a micro-batch of fillers, whose ids are all -1.
    size = int(pairs.max()) + 1
    reference = batch.reference_logprobs if batch.reference_logprobs is not None else torch.zeros_like(mask)

    def total(values: Tensor, side: Tensor) -> Tensor:
        inside = (mask * side) != 0
        return sequence_sum(torch.where(inside, values, torch.zeros_like(values)), pairs, size)

    # [B, T] each, 1 on the tokens of that side
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
        # [Q]; the same on all tokens of a pair: the mean over the chosen side gives it back.
        weight=total(batch.weights.to(mask.dtype), chosen) / tokens.clamp(min=1),
    )


def _chosen_nll(logprobs: Tensor, batch: TokenBatch, denominator: Denominator) -> Tensor:
    """Share of the mean cross-entropy over all trainable tokens of chosen completions."""
    assert batch.preferred is not None
    return -masked_sum(logprobs, batch.loss_mask * batch.preferred) / max(denominator.preferred_tokens, 1.0)


def _measure(sums: PairSums, made: PairLoss) -> dict[str, Metric]:
    # [Q]; pair numbers are those of the whole batch, so that most entries belong to other micro-batches.
    here = (sums.weight > 0).to(sums.weight.dtype)
    margin = (made.chosen_reward - made.rejected_reward).detach()
    return {
        "pairs": metrics.total(here),
        "pair_accuracy": metrics.mean((margin > 0).to(here.dtype), here),
        "margin": metrics.mean(margin, here),
        "reward_chosen": metrics.mean(made.chosen_reward, here),
        "reward_rejected": metrics.mean(made.rejected_reward, here),
        "logprob_chosen": metrics.mean(sums.chosen, here),
        "logprob_rejected": metrics.mean(sums.rejected, here),
        "length_chosen": metrics.mean(sums.chosen_tokens, here),
        "length_rejected": metrics.mean(sums.rejected_tokens, here),
        **made.metrics,
    }
