import pytest
import torch

from rlserve.algorithms.shaping import overlong_penalty


def test_the_overlong_penalty_has_the_worked_values():
    lengths = torch.tensor([80, 81, 90, 100, 101])
    assert overlong_penalty(lengths, 100, 20).tolist() == pytest.approx([0, -0.05, -0.5, -1, -1])


def test_the_overlong_penalty_at_the_scale_of_the_paper():
    assert float(overlong_penalty(torch.tensor([18432]), 20480, 4096)) == pytest.approx(-0.5)
