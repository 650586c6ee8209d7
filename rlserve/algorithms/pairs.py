"""Which completions of a group become chosen and rejected. Pure: randomness comes from the group's seed.

Shape letter: G members of a group. Only scored members take part. A tie is no pair: noise would decide it.
"""

from collections.abc import Sequence

import numpy as np

from rlserve.algorithms.batch import Assignment, GroupOutcome
from rlserve.config.algorithms.preference import PairedConfig, PairsConfig

Pair = tuple[int, int]
"""(chosen, rejected), positions in the group."""


def select(outcome: GroupOutcome, config: PairsConfig) -> list[Pair]:
    """At most ``pairs_per_group`` pairs of a group; none when it has no contrast."""
    if config.selection == "given":
        return given(outcome)[: config.pairs_per_group]
    candidates = admissible(outcome, config)
    if config.selection == "best_worst":
        return best_worst(outcome, candidates)
    generator = np.random.default_rng(outcome.seed)
    order = generator.permutation(len(candidates))[: config.pairs_per_group]
    return [candidates[i] for i in sorted(order)]


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
    """All pairs that keep the rules, in order; ``random`` also wants a right and a wrong one."""
    rewards, truncated = outcome.rewards.tolist(), outcome.truncated.tolist()
    members = [i for i, scored in enumerate(outcome.scored.tolist()) if scored]
    pairs = [
        (i, j)
        for i in members
        for j in members
        if rewards[i] - rewards[j] > config.margin and (config.truncated_chosen or not truncated[i])
    ]
    if config.selection == "random":
        return [(i, j) for i, j in pairs if rewards[i] >= config.correct_reward > rewards[j]]
    return pairs


def best_worst(outcome: GroupOutcome, candidates: Sequence[Pair]) -> list[Pair]:
    """The pair with the widest margin; among equals the one nearest in length, so that length teaches little."""
    rewards, lengths = outcome.rewards.tolist(), outcome.lengths.tolist()
    widest = min(
        candidates,
        key=lambda pair: (rewards[pair[1]] - rewards[pair[0]], abs(lengths[pair[0]] - lengths[pair[1]]), pair),
        default=None,
    )
    return [] if widest is None else [widest]


def given(outcome: GroupOutcome) -> list[Pair]:
    """Pairs made off line: chosen and rejected members of the same pair number."""
    if outcome.roles is None or outcome.pair_numbers is None:
        return []
    roles, numbers, lengths = outcome.roles.tolist(), outcome.pair_numbers.tolist(), outcome.lengths.tolist()
    filled = [i for i, length in enumerate(lengths) if length > 0]
    return [(i, j) for i in filled for j in filled if roles[i] == 1 and roles[j] == -1 and numbers[i] == numbers[j]]


def prepare(outcomes: Sequence[GroupOutcome], config: PairedConfig) -> list[Assignment]:
    """Two assignments a pair, chosen first; weights of all pairs sum to 1.

    A member that is in several pairs is assigned to each of them.
    """
    chosen = [select(outcome, config.pairs) for outcome in outcomes]
    prompts, total = sum(1 for pairs in chosen if pairs), sum(map(len, chosen))
    assignments: list[Assignment] = []
    for group, pairs in enumerate(chosen):
        for pair in pairs:
            weight = 1 / total if config.averaging == "pair_mean" else 1 / (prompts * len(pairs))
            number = len(assignments) // 2
            assignments += [
                Assignment(group=group, member=member, pair=number, preferred=side == 0, weight=weight)
                for side, member in enumerate(pair)
            ]
    return assignments
