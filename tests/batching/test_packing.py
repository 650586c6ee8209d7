import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.batching.packing import best_fit, by_length, over_ranks
from rlserve.errors import LimitExceeded

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=40)


def single(lengths):
    return [(i,) for i in range(len(lengths))]


def named(bins, lengths):
    return [[lengths[i] for unit in b for i in unit] for b in bins]


def test_best_fit_fills_the_worked_bins():
    lengths = [7, 6, 4, 3, 3, 2, 1]
    assert named(best_fit(single(lengths), lengths, 8), lengths) == [[7, 1], [6, 2], [4, 3], [3]]


@given(LENGTHS, st.integers(20, 64))
@pytest.mark.parametrize("fill", [best_fit, by_length])
def test_every_sequence_is_in_one_bin_and_no_bin_is_over_budget(fill, lengths, budget):
    bins = fill(single(lengths), lengths, budget)
    assert sorted(i for b in bins for unit in b for i in unit) == list(range(len(lengths)))
    for sizes in named(bins, lengths):
        assert (sum(sizes) if fill is best_fit else max(sizes) * len(sizes)) <= budget


@given(LENGTHS, st.integers(1, 5))
def test_ranks_differ_by_at_most_the_longest_sequence(lengths, ranks):
    shares = over_ranks(single(lengths), lengths, ranks)
    loads = [sum(lengths[i] for unit in share for i in unit) for share in shares]
    assert sorted(i for share in shares for unit in share for i in unit) == list(range(len(lengths)))
    assert max(loads) - min(loads) <= max(lengths)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
@pytest.mark.parametrize("fill", [best_fit, by_length])
def test_a_pair_stays_in_one_bin(fill, pairs):
    lengths = [n for pair in pairs for n in pair]
    units = [(2 * i, 2 * i + 1) for i in range(len(pairs))]
    assert sorted(unit for b in fill(units, lengths, 20) for unit in b) == units


def test_padded_bins_hold_neighbours_in_length():
    lengths = [1, 9, 2, 8, 1, 9]
    assert named(by_length(single(lengths), lengths, 27), lengths) == [[9, 9, 8], [2, 1, 1]]


@pytest.mark.parametrize("fill", [best_fit, by_length])
def test_a_sequence_over_the_budget_is_an_error_that_names_the_fix(fill):
    with pytest.raises(LimitExceeded, match=r"tokens_per_micro_batch: is 8.*9 tokens; raise it"):
        fill([(0,)], [9], 8)
