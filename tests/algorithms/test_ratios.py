import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import ratios


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_effective_sample_size_of_the_worked_example_and_after_truncation():
    logs, mask = tensor(1, 1.1, 0.9, 4).log(), torch.ones(4, dtype=torch.float64)
    assert float(ratios.effective_sample_size(logs.exp(), mask)) == pytest.approx(0.644, abs=1e-3)
    cut = ratios.truncated(logs, 2.0)
    assert float(ratios.effective_sample_size(cut, mask)) == pytest.approx(0.890, abs=1e-3)


def test_the_worked_sequence_over_three_versions_has_its_ratios():
    policy, behavior = tensor(-0.9, -0.6, -1.2, -0.3), tensor(-1, -0.5, -2, -0.3)
    logs = ratios.log_ratio(policy, behavior, torch.ones(4))
    assert logs.exp().tolist() == pytest.approx([1.105, 0.905, 2.226, 1.0], abs=1e-3)
    assert float(logs.sum().exp()) == pytest.approx(2.226, abs=1e-3)


@settings(deadline=None)
@given(ratio=st.floats(0.05, 5), advantage=st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3))
def test_the_clip_stops_the_gradient_exactly_where_it_should(ratio, advantage):
    if min(abs(ratio - 0.8), abs(ratio - 1.28)) < 1e-6:
        return
    logs = tensor(math.log(ratio)).requires_grad_()
    advantages = tensor(advantage)
    ratios.clipped_surrogate(logs, advantages, 0.2, 0.28).sum().backward()
    low = float(ratios.clipped_low(logs, advantages, 0.2))
    high = float(ratios.clipped_high(logs, advantages, 0.28))
    assert low == (advantage < 0 and ratio < 0.8)
    assert high == (advantage > 0 and ratio > 1.28)
    assert float(logs.grad) == pytest.approx(0 if low or high else -advantage * ratio)


def test_clip_higher_lets_a_rare_token_rise_further():
    for clip_high, ceiling in ((0.2, 0.012), (0.28, 0.0128)):
        logs = tensor(math.log(ceiling / 0.01 - 1e-9), math.log(ceiling / 0.01 + 1e-9))
        stopped = ratios.clipped_high(logs, tensor(1, 1), clip_high)
        assert stopped.tolist() == [0, 1]


def test_mean_k3_under_the_behaviour_oracle_the_exact_divergence():
    behavior, policy = tensor(0.7, 0.2, 0.1), tensor(0.5, 0.3, 0.2)
    exact = (behavior * (behavior / policy).log()).sum()
    assert float((behavior * ratios.k3((policy / behavior).log())).sum()) == pytest.approx(float(exact))
    assert float(exact) == pytest.approx(0.08512, abs=1e-5)


def test_a_masked_token_may_hold_anything():
    logs = ratios.log_ratio(tensor(-1, float("-inf")), tensor(-1, 0), tensor(1, 0))
    assert logs.tolist() == [0, 0]


def test_an_extreme_ratio_gives_a_finite_loss_and_gradient():
    policy = torch.tensor([0.0, -200.0], requires_grad=True)
    logs = ratios.log_ratio(policy, torch.tensor([-200.0, 0.0]), torch.ones(2))
    loss = ratios.clipped_surrogate(logs, torch.tensor([1.0, -1.0]), 0.2, 0.28).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(policy.grad).all()
