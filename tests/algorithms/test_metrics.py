import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlserve.algorithms import metrics, ratios

CUT = st.tuples(st.integers(1, 12), st.integers(0, 999))


def measure(values, mask):
    return {
        "mean": metrics.mean(values, mask),
        "total": metrics.total(values * mask),
        "max": metrics.maximum(values, mask),
        "min": metrics.minimum(values, mask),
        "ess": metrics.effective_sample_size(values, mask),
        "std": metrics.standard_deviation(values, mask),
    }


@given(CUT)
def test_merged_parts_give_the_value_of_the_whole(cut_and_seed):
    cut, seed = cut_and_seed
    torch.manual_seed(seed)
    values, mask = torch.rand(12, dtype=torch.float64) + 0.1, (torch.rand(12) < 0.7).double()
    if not mask.any():
        return
    parts = [measure(values[:cut], mask[:cut])]
    if cut < 12:
        parts.append(measure(values[cut:], mask[cut:]))
    merged = metrics.results(metrics.merge(parts))
    kept = values[mask > 0]
    assert merged["mean"] == pytest.approx(float(kept.mean()))
    assert merged["total"] == pytest.approx(float(kept.sum()))
    assert merged["max"] == pytest.approx(float(kept.max()))
    assert merged["min"] == pytest.approx(float(kept.min()))
    assert merged["ess"] == pytest.approx(float(ratios.effective_sample_size(values, mask)))
    assert merged["std"] == pytest.approx(float(kept.std(correction=0)), abs=1e-7)


def test_two_ranks_reduce_plain_vectors_to_the_value_of_the_whole():
    values, mask = torch.rand(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    ranks = [measure(values[:3], mask[:3]), measure(values[3:], mask[3:])]
    vectors = [metrics.to_vectors(rank) for rank in ranks]
    reduced = metrics.from_vectors(ranks[1], vectors[0][0] + vectors[1][0], torch.maximum(vectors[0][1], vectors[1][1]))
    expected = metrics.results(metrics.merge(ranks))
    assert metrics.results(reduced) == pytest.approx(expected)


def test_a_metric_that_saw_nothing_is_left_out_and_does_not_disturb():
    nothing = measure(torch.rand(3), torch.zeros(3))
    assert metrics.results(nothing) == {"total": 0.0}
    something = measure(torch.tensor([2.0, 4.0]), torch.ones(2))
    assert metrics.results(metrics.merge([nothing, something])) == metrics.results(something)
