"""Distributes sequences over token budgets and ranks. Pure and deterministic: ties go to the lower index.

A unit is a tuple of sequences that must stay in one micro-batch: one sequence, or a pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rlserve.errors import LimitExceeded

Unit = tuple[int, ...]
"""Numbers of sequences."""
PARITY = 32768
"""Tokens of a sequence whose attention takes as long as all else: 12 hidden sizes, of a model of 4 billion weights."""


@dataclass(slots=True)
class _Bin:
    units: list[Unit] = field(default_factory=list)
    tokens: int = 0


def over_ranks(units: Sequence[Unit], lengths: Sequence[int], ranks: int) -> list[list[Unit]]:
    """Units by rank, balanced by work: the heaviest unit first, each to the rank with the least so far."""
    loads: list[tuple[list[Unit], list[float]]] = [([], []) for _ in range(ranks)]
    for unit in _longest_first(units, lengths, key=lambda unit: _work(unit, lengths)):
        # Greedy over falling work (LPT): the fullest rank has at most 4/3 of what the best split would give it.
        taken, work = min(loads, key=lambda load: sum(load[1]))
        taken.append(unit)
        work.append(_work(unit, lengths))
    return [taken for taken, _ in loads]


def best_fit(units: Sequence[Unit], lengths: Sequence[int], budget: int) -> list[list[Unit]]:
    """Bins of at most ``budget`` tokens, best-fit decreasing: for packed rows.

    Each unit goes, longest first, where the least space is left over; a bin is opened when none has space.
    Raises LimitExceeded for a unit longer than the budget.
    """
    bins: list[_Bin] = []
    for unit in _longest_first(units, lengths):
        tokens = _fitting(unit, _tokens(unit, lengths), budget)
        # Quadratic in the number of bins, which is small beside a forward pass.
        fitting = [b for b in bins if b.tokens + tokens <= budget]
        target = max(fitting, key=lambda b: b.tokens, default=None)  # the fullest that has room: best fit
        if target is None:
            target = _Bin()
            bins.append(target)
        target.units.append(unit)
        target.tokens += tokens
    return [b.units for b in bins]


def by_length(units: Sequence[Unit], lengths: Sequence[int], budget: int) -> list[list[Unit]]:
    """Bins of similar length, of at most ``budget`` tokens after padding to the longest: for padded rows.

    Raises LimitExceeded for a unit that is longer than the budget when padded.
    """
    bins: list[list[Unit]] = []
    rows = longest = 0
    # Longest first, so that neighbours are of similar length and little is padded.
    for unit in _longest_first(units, lengths, key=lambda u: max(lengths[i] for i in u)):
        widest = max(lengths[i] for i in unit)
        _fitting(unit, widest * len(unit), budget)
        # Padded size: every row takes the width of the longest.
        if not bins or max(longest, widest) * (rows + len(unit)) > budget:
            bins.append([])
            rows = longest = 0
        bins[-1].append(unit)
        rows, longest = rows + len(unit), max(longest, widest)
    return bins


def _longest_first(
    units: Sequence[Unit], lengths: Sequence[int], key: Callable[[Unit], float] | None = None
) -> list[Unit]:
    size = key or (lambda unit: _tokens(unit, lengths))
    # The unit itself breaks ties, so that the same groups give the same tensors.
    return sorted(units, key=lambda unit: (-size(unit), unit))


def _work(unit: Unit, lengths: Sequence[int]) -> float:
    """In tokens: T + T^2 / PARITY of each sequence, since a token attends to all before it."""
    return sum(lengths[i] + lengths[i] ** 2 / PARITY for i in unit)


def _tokens(unit: Unit, lengths: Sequence[int]) -> int:
    return sum(lengths[i] for i in unit)


def _fitting(unit: Unit, tokens: int, budget: int) -> int:
    if tokens > budget:
        raise LimitExceeded(
            f"learner.tokens_per_micro_batch: is {budget}, but {len(unit)} sequence(s) that belong together "
            f"take {tokens} tokens; raise it, or lower model.max_length"
        )
    return tokens
