import pytest
import torch

from rlserve.algorithms.advantages import group_mean
from rlserve.algorithms.rewards import length_penalty, overlong_penalty


def test_the_overlong_penalty_has_the_worked_values():
    lengths = torch.tensor([80, 81, 90, 100, 101])
    assert overlong_penalty(lengths, 100, 20).tolist() == pytest.approx([0, -0.05, -0.5, -1, -1])


def test_the_overlong_penalty_at_the_scale_of_the_paper():
    assert float(overlong_penalty(torch.tensor([18432]), 20480, 4096)) == pytest.approx(-0.5)


def test_the_length_penalty_has_the_worked_advantages():
    rewards, scored = torch.tensor([1.0, 1, 0, 0]), torch.ones(4, dtype=torch.bool)
    penalised = length_penalty(rewards, scored, torch.tensor([100, 400, 200, 400]), 1.0)
    assert group_mean(penalised, scored).tolist() == pytest.approx([0.719, 0.344, -0.406, -0.656], abs=1e-3)


def test_the_length_penalty_vanishes_where_nothing_succeeds():
    nothing = torch.zeros(3)
    assert length_penalty(nothing, torch.ones(3, dtype=torch.bool), torch.tensor([1, 5, 9]), 0.5).tolist() == [0, 0, 0]
