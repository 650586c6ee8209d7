import pytest
import torch

from rlserve.algorithms import registry
from rlserve.algorithms.base import Stateful
from rlserve.algorithms.batch import GroupOutcome
from rlserve.config.algorithms.distillation import MixedConfig
from rlserve.config.algorithms.policy_gradient import GrpoConfig, ReinforceConfig


def outcome(rewards, scored=None, lengths=None, truncated=None, limit=100, mode=""):
    size = len(rewards)
    return GroupOutcome(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        scored=torch.tensor(scored or [True] * size),
        lengths=torch.tensor(lengths or [10] * size),
        truncated=torch.tensor(truncated or [False] * size),
        length_limit=limit,
        mode=mode,
    )


def grpo(**options):
    return registry.create(GrpoConfig(**options))


def test_a_group_without_contrast_is_dropped_unless_told_otherwise():
    assert grpo().why_drop(outcome([1, 1, 1])) == "zero_variance"
    assert grpo(zero_variance="keep").why_drop(outcome([1, 1, 1])) is None
    assert grpo().why_drop(outcome([1, 0, 1])) is None


def test_a_group_with_fewer_than_two_verdicts_is_dropped():
    assert grpo(zero_variance="keep").why_drop(outcome([1, 0], scored=[True, False])) == "no_verdict"


def test_members_without_verdict_are_left_out_and_move_no_baseline():
    assigned = grpo().prepare([outcome([1, 50, 0], scored=[True, False, True])])
    assert [a.trajectory_index for a in assigned] == [0, 2]
    assert [a.advantage for a in assigned] == pytest.approx([0.7070, -0.7070], abs=1e-3)


def test_masked_truncated_members_stay_in_the_baseline():
    algorithm = grpo(truncated="mask", advantage="group_mean")
    assigned = algorithm.prepare([outcome([1, 0, 0, 0], truncated=[False, False, False, True])])
    assert [(a.trajectory_index, a.advantage) for a in assigned] == [(0, 0.75), (1, -0.25), (2, -0.25)]
    assert algorithm.why_drop(outcome([1, 0], truncated=[True, True])) == "truncated"


def test_the_overlong_penalty_enters_the_advantage_but_makes_no_dead_group_alive():
    algorithm = grpo(overlong_buffer=20, advantage="group_mean", overlong_penalty=0.5)
    assert algorithm.why_drop(outcome([1, 1], lengths=[80, 100])) == "zero_variance"
    assigned = algorithm.prepare([outcome([1, 0], lengths=[90, 80])])
    assert [a.advantage for a in assigned] == pytest.approx([0.375, -0.375])


def test_groups_keep_their_own_baselines():
    assigned = grpo(advantage="leave_one_out").prepare([outcome([1, 0]), outcome([5, 3, 1])])
    assert [(a.group, a.trajectory_index) for a in assigned] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert [a.advantage for a in assigned] == pytest.approx([1, -1, 3, 0, -3])


def test_a_mode_may_have_its_own_length_limit():
    algorithm = grpo(overlong_buffer=20, advantage="group_mean", mode_limits={"no_think": 40})
    short = algorithm.prepare([outcome([1, 1], lengths=[20, 40], mode="no_think")])
    long = algorithm.prepare([outcome([1, 1], lengths=[20, 40], mode="think")])
    assert [a.advantage for a in short] == pytest.approx([0.5, -0.5])
    assert [a.advantage for a in long] == [0, 0]


def test_max_rl_drops_a_group_with_a_negative_reward():
    assert grpo(advantage="max_rl").why_drop(outcome([1, -1])) == "negative_reward"


def test_the_batch_deviation_spans_groups():
    assigned = grpo(advantage="batch_std", zero_variance="keep").prepare([outcome([1, 1]), outcome([1, 0])])
    deviation = float(torch.tensor([1.0, 1, 1, 0]).std()) + 1e-4
    assert [a.advantage for a in assigned] == pytest.approx([0, 0, 0.5 / deviation, -0.5 / deviation])


def test_a_running_baseline_moves_after_it_was_used_and_survives_a_checkpoint():
    config = ReinforceConfig(advantage="running_baseline", zero_variance="keep", baseline_decay=0.5)
    algorithm = registry.create(config)
    assert algorithm.state() == {}
    assert [a.advantage for a in algorithm.prepare([outcome([1]), outcome([0])])] == [0.5, -0.5]
    assert algorithm.state() == {"baseline": 0.5}
    again = registry.create(config)
    again.restore(algorithm.state())
    for one in (algorithm, again):
        assert [a.advantage for a in one.prepare([outcome([1])])] == [0.5]
        assert one.state() == {"baseline": 0.75}
    assert algorithm.why_drop(outcome([1])) is None


def test_a_mixture_keeps_the_memory_of_its_reward_part():
    reward = ReinforceConfig(advantage="running_baseline", zero_variance="keep")
    mixed = registry.create(MixedConfig(reward=reward, supervised_weight=0.1))
    assert isinstance(mixed, Stateful)
    mixed.prepare([outcome([1]), outcome([0])])
    again = registry.create(MixedConfig(reward=reward, supervised_weight=0.1))
    again.restore(mixed.state())
    assert again.state() == {"baseline": 0.5}
