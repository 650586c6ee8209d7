import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlserve.algorithms.advantages import (
    batch_deviation,
    batch_std,
    group_mean,
    group_std,
    is_zero_variance,
    leave_one_out,
    max_rl,
    next_baseline,
    running_baseline,
)

ALL = torch.ones(4, dtype=torch.bool)
REWARDS = st.lists(st.floats(-5, 5), min_size=2, max_size=9)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_worked_values_of_one_success_in_four():
    rewards = tensor(1, 0, 0, 0)
    assert group_mean(rewards, ALL).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert leave_one_out(rewards, ALL).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert max_rl(rewards, ALL).tolist() == pytest.approx([3, -1, -1, -1])
    assert group_std(rewards, ALL).tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-4)


def test_the_one_failure_in_eight_carries_most_of_the_signal():
    advantages = group_std(tensor(0, *[1] * 7), torch.ones(8, dtype=torch.bool))
    assert float(advantages[0]) == pytest.approx(-2.475, abs=1e-3)
    assert float(advantages[1]) == pytest.approx(0.354, abs=1e-3)


@pytest.mark.parametrize("estimator", [group_mean, group_std, leave_one_out, max_rl])
def test_equal_rewards_teach_exactly_nothing(estimator):
    assert estimator(tensor(1, 1, 1, 1), ALL).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("estimator", [group_mean, group_std, leave_one_out, max_rl])
def test_a_member_without_verdict_enters_no_baseline_and_gets_zero(estimator):
    scored = torch.tensor([True, True, False, True])
    with_gap = estimator(tensor(1, 0, 99, 0), scored)
    assert with_gap[2] == 0
    kept = estimator(tensor(1, 0, 0), torch.ones(3, dtype=torch.bool))
    assert with_gap[scored].tolist() == pytest.approx(kept.tolist())


@pytest.mark.parametrize("estimator", [group_mean, group_std, leave_one_out, max_rl])
def test_one_scored_member_compares_with_nothing(estimator):
    assert estimator(tensor(3, 0), torch.tensor([True, False])).tolist() == [0, 0]


@given(REWARDS)
def test_group_std_oracle_plain_python(values):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    expected = [(v - mean) / (deviation + 1e-4) for v in values]
    ours = group_std(tensor(*values), torch.ones(len(values), dtype=torch.bool))
    assert ours.tolist() == pytest.approx(expected, abs=1e-9)


@given(REWARDS)
def test_leave_one_out_oracle_plain_python(values):
    expected = [v - (sum(values) - v) / (len(values) - 1) for v in values]
    ours = leave_one_out(tensor(*values), torch.ones(len(values), dtype=torch.bool))
    assert ours.tolist() == pytest.approx(expected, abs=1e-9)


def test_rewards_are_equal_within_the_tolerance_and_only_there():
    assert is_zero_variance([1, 1 + 1e-9])
    assert not is_zero_variance([1, 1 + 1e-7])
    assert is_zero_variance([])


def test_max_rl_is_zero_where_nothing_succeeds():
    assert max_rl(tensor(0, 0, 0, 0), ALL).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_max_rl_weighs_a_success_by_the_inverse_of_its_rate(rate):
    successes = round(rate * 20)
    rewards = tensor(*[1] * successes, *[0] * (20 - successes))
    advantages = max_rl(rewards, torch.ones(20, dtype=torch.bool))
    assert float(advantages[0] - advantages[-1]) == pytest.approx(1 / rate)


def test_the_batch_deviation_is_that_of_the_rewards_and_keeps_near_ties_small():
    easy, hard = tensor(0.50, 0.51, 0.49, 0.50), tensor(1, 0, 0, 1)
    deviation = batch_deviation(torch.cat([easy, hard]))
    assert float(deviation) == pytest.approx(float(torch.cat([easy, hard]).std()))
    assert float(batch_std(easy, ALL, deviation).abs().max()) < 0.05
    assert float(group_std(easy, ALL).abs().max()) > 1
    assert batch_std(hard, ALL, deviation).tolist() == pytest.approx(
        ((hard - hard.mean()) / (deviation + 1e-4)).tolist()
    )
    assert batch_deviation(tensor(1)) == 0


def test_a_running_baseline_gives_even_a_lone_sample_an_advantage():
    assert running_baseline(tensor(1, 7), torch.tensor([True, False]), 0.25).tolist() == [0.75, 0]
    assert next_baseline(None, 0.4, 0.9) == 0.4
    assert next_baseline(0.4, 1.0, 0.9) == pytest.approx(0.46)
