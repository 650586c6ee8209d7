"""Turns groups of trajectories into the tensors of one optimizer batch, laid out over ranks and micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlserve.algorithms.base import Algorithm
from rlserve.algorithms.batch import Assignment, Denominator, TokenBatch
from rlserve.algorithms.masked import denominator
from rlserve.batching import packing
from rlserve.batching.filters import outcome
from rlserve.batching.sequences import TrainingSequence
from rlserve.batching.summary import summarize
from rlserve.batching.tensors import SequenceTable
from rlserve.config.tables.learner import LearnerConfig
from rlserve.records import RolloutGroup

_DEFAULTS = LearnerConfig()
"""The defaults of ``[learner]``, said there alone."""
ROUND_WIDTH_TO = 4
"""Few tokens of padding a row, a quarter of the widths; see ``_width``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLayout:
    """Settings that cut an optimizer batch into micro-batches."""

    tokens_per_micro_batch: int
    """Most tokens in one forward pass, padding included."""
    max_new_tokens: int
    """Sampled tokens after which a completion is cut, unless its task sets its own limit."""
    ranks: int = _DEFAULTS.ranks
    """Ranks that have rows of their own, or groups of ranks that share rows."""
    packing: bool = _DEFAULTS.packing
    """Several sequences in one row; the model must be called with ``position_ids`` and no attention mask."""
    pad_id: int = 0
    max_length: int | None = None
    """Tokens of the longest sequence that the model takes. Padded rows are widened to a multiple of 4, but not beyond
    it; None: to the longest sequence among them."""
    max_token_lag: int | None = _DEFAULTS.max_token_lag
    """Tokens older than this many versions are masked, their sequences kept; None: no token is masked."""
    reference: str = ""
    """Name of the teacher that serves the reference model; empty without one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OptimizerBatch:
    """Input of one optimizer step. Sequences without a gradient appear in its denominator alone."""

    micro_batches: tuple[tuple[TokenBatch, ...], ...]
    """By rank. All ranks have equally many, so that their collectives match; fillers have an empty mask."""
    denominator: Denominator
    """Divisors of the token losses, over all micro-batches of all ranks."""
    summary: Mapping[str, float]
    """Rewards, lengths and lag of the groups (``summary.summarize``), and counts of sequences."""


def collate(groups: Sequence[RolloutGroup], algorithm: Algorithm, layout: BatchLayout, version: int) -> OptimizerBatch:
    """The optimizer batch of ``groups``, to be trained on weights ``version``.

    The same groups in the same order give the same tensors. Raises LimitExceeded for a sequence that is
    longer than a micro-batch.
    """
    outcomes = [outcome(group, max_new_tokens=layout.max_new_tokens, reference=layout.reference) for group in groups]
    assignments = algorithm.prepare(outcomes)
    sequences = [
        TrainingSequence(
            trajectory=groups[assignment.group].trajectories[assignment.trajectory_index],
            assignment=assignment,
            number=number,
            version=version,
            max_token_lag=layout.max_token_lag,
            reference_teacher=layout.reference,
        )
        for number, assignment in enumerate(assignments)
    ]
    table = SequenceTable(sequences, layout.pad_id)
    # A pair stays whole when either side has a gradient: its loss needs both.
    run = [unit for unit in units_of(assignments) if any(assignments[i].has_gradient for i in unit)]
    # Lengths here are true ones; padding is decided in _lay_out.
    micro_batches = _lay_out(table, [len(sequence) for sequence in sequences], run, layout)
    counted = [i for i, assignment in enumerate(assignments) if not assignment.has_gradient]
    # Laid out only for the denominator: their tokens count, though the model is not run on them.
    uncomputed = [table.padded(counted)] if counted else []
    return OptimizerBatch(
        micro_batches=micro_batches,
        denominator=denominator(
            [*(batch for rank in micro_batches for batch in rank), *uncomputed],
            num_sequences=len(sequences),
            num_groups=len(groups),
        ),
        summary=summarize(groups, version)
        | {"batch/sequences": float(len(sequences)), "batch/sequences_without_gradient": float(len(counted))},
    )


def minibatches(groups: Sequence[RolloutGroup], count: int) -> list[Sequence[RolloutGroup]]:
    """Cut the groups, in order, into at most ``count`` parts whose sizes differ by at most one."""
    count = min(count, len(groups))
    bounds = [len(groups) * i // count for i in range(count + 1)]
    # Whole groups, so that group statistics and pairs stay within one update.
    return [groups[start:stop] for start, stop in pairwise(bounds)]


def units_of(assignments: Sequence[Assignment]) -> list[packing.Unit]:
    """Numbers of sequences that must share a micro-batch: both of a pair, or one alone."""
    units: dict[tuple[bool, int], packing.Unit] = {}
    for number, assignment in enumerate(assignments):
        paired = assignment.pair >= 0
        # With `paired`, since numbers of pairs and of sequences overlap.
        key = (paired, assignment.pair if paired else number)
        units[key] = (*units.get(key, ()), number)
    return list(units.values())


def _lay_out(
    table: SequenceTable, lengths: Sequence[int], units: Sequence[packing.Unit], layout: BatchLayout
) -> tuple[tuple[TokenBatch, ...], ...]:
    widths = lengths if layout.packing else [_width(length, layout) for length in lengths]
    fill = packing.best_fit if layout.packing else packing.by_length

    def build(bin_: Sequence[packing.Unit]) -> TokenBatch:
        numbers = [i for unit in bin_ for i in unit]
        return table.packed(numbers) if layout.packing else table.padded(numbers, max(widths[i] for i in numbers))

    per_rank = [
        [build(bin_) for bin_ in fill(on_rank, widths, layout.tokens_per_micro_batch)]
        # By true lengths: tokens are the work of a rank; widths only decide what fits a micro-batch.
        for on_rank in packing.over_ranks(units, lengths, layout.ranks)
    ]
    # Equally many on every rank, at least one: each forward pass under ZeRO-3 is a collective.
    steps = max(1, *(len(batches) for batches in per_rank))
    return tuple(tuple(batches + [table.filler()] * (steps - len(batches))) for batches in per_rank)


def _width(length: int, layout: BatchLayout) -> int:
    """Rounded up, for few different widths: libraries choose, and on CPU compile, kernels for every new shape."""
    if layout.max_length is None:
        return length
    rounded = -(-length // ROUND_WIDTH_TO) * ROUND_WIDTH_TO
    # Not beyond what the model's positions and the budget allow; a sequence itself always fits (checked by the
    # configuration).
    return max(length, min(rounded, layout.max_length, layout.tokens_per_micro_batch))
