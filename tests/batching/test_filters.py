from dataclasses import replace

from rlserve.algorithms import registry
from rlserve.batching.filters import outcome, why_drop
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.records import FinishReason, Sampling
from tests.support.groups import group, trajectory

GRPO = registry.create(GrpoConfig())


def test_a_group_is_dropped_for_a_named_reason():
    assert why_drop(group([1, 0]), GRPO) is None
    assert why_drop(group([1, 1]), GRPO) == "zero_variance"
    assert why_drop(group([1, None]), GRPO) == "no_verdict"


def test_a_cancelled_or_empty_member_is_not_compared():
    members = (trajectory(4, 1.0), trajectory(3, 0.0, finish=FinishReason.ABORT), trajectory(0, 0.0))
    broken = replace(group([1, 0]), trajectories=members)
    assert outcome(broken, max_new_tokens=9).scored.tolist() == [True, False, False]
    assert why_drop(broken, GRPO) == "no_verdict"
    assert why_drop(replace(broken, trajectories=members[1:]), GRPO) == "empty"


def test_no_verdict_is_not_reward_zero():
    seen = outcome(group([1, None, 0]), max_new_tokens=9)
    assert seen.scored.tolist() == [True, False, True]
    assert why_drop(group([0, None, 0]), GRPO) == "zero_variance"


def test_the_task_may_set_its_own_length_limit():
    assert outcome(group([1, 0]), max_new_tokens=9).length_limit == 9
    own = group([1, 0], sampling=Sampling(max_new_tokens=5))
    assert outcome(own, max_new_tokens=9).length_limit == 5


def test_a_group_is_as_stale_as_its_oldest_token():
    old = trajectory(4, 1.0, spans=[(3, 1), (6, 3)])
    mixed = replace(group([1, 0]), trajectories=(trajectory(2, 0.0, spans=[(6, 2)]), old))
    assert mixed.oldest_version == 3
