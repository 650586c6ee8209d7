import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlserve.algorithms import pairs
from rlserve.algorithms.batch import GroupOutcome
from rlserve.config.algorithms.preference import DpoConfig, PairsConfig

REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8)


def outcome(rewards, *, scored=None, lengths=None, truncated=None, roles=None, numbers=None, seed=0):
    size = len(rewards)
    return GroupOutcome(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        scored=torch.tensor(scored or [True] * size),
        lengths=torch.tensor(lengths or [5] * size),
        truncated=torch.tensor(truncated or [False] * size),
        length_limit=9,
        roles=torch.tensor(roles or [0] * size),
        pair_numbers=torch.tensor(numbers or [0] * size),
        seed=seed,
    )


@given(REWARDS, st.integers(0, 99), st.sampled_from(["random", "best_worst", "all"]), st.floats(0, 0.6))
def test_a_chosen_beats_its_rejected_by_more_than_the_margin(rewards, seed, selection, margin):
    count = 1 if selection == "best_worst" else 3
    made = pairs.select(
        outcome(rewards, seed=seed), PairsConfig(selection=selection, margin=margin, pairs_per_group=count)
    )
    assert len(made) == len(set(made)) <= count
    for chosen, rejected in made:
        assert rewards[chosen] - rewards[rejected] > margin
        if selection == "random":
            assert rewards[chosen] >= 1 > rewards[rejected]


def test_random_pairs_are_uniform_over_right_and_wrong_and_repeat_for_the_same_group():
    rewards, config = [1, 0, 1, 0, 0], PairsConfig()
    seen = [pairs.select(outcome(rewards, seed=s), config)[0] for s in range(600)]
    assert dict.fromkeys(seen, True).keys() == {(i, j) for i in (0, 2) for j in (1, 3, 4)}
    assert all(60 < seen.count(pair) < 140 for pair in set(seen))
    assert seen[7] == pairs.select(outcome(rewards, seed=7), config)[0]


def test_best_against_worst_prefers_equal_lengths_among_equals():
    config = PairsConfig(selection="best_worst")
    assert pairs.select(outcome([0, 1, 1, 0.5], lengths=[9, 4, 8, 9]), config) == [(2, 0)]


def test_all_pairs_of_a_group():
    config = PairsConfig(selection="all", pairs_per_group=99)
    assert pairs.select(outcome([1, 0.5, 0]), config) == [(0, 1), (0, 2), (1, 2)]


def test_a_truncated_completion_is_rejected_but_not_chosen():
    group = outcome([1, 0, 0], truncated=[True, False, False])
    assert pairs.why_drop(group, PairsConfig()) == "no_pair"
    assert pairs.select(outcome([1, 0], truncated=[False, True]), PairsConfig()) == [(0, 1)]
    assert pairs.select(group, PairsConfig(truncated_chosen=True))


@pytest.mark.parametrize(
    ("rewards", "options", "reason"),
    [
        ([1, 1], {}, "all_correct"),
        ([0, 0.5], {}, "all_wrong"),
        ([0.5, 0.5], {"selection": "best_worst"}, "tie"),
        ([0.5, 0.6], {"selection": "best_worst", "margin": 0.2}, "tie"),
        ([0.5, 0.8], {"selection": "best_worst", "margin": 0.2}, None),
        ([1], {}, "no_verdict"),
        ([1, 0], {"selection": "given"}, "no_pair"),
    ],
)
def test_a_group_without_contrast_is_dropped_for_a_named_reason(rewards, options, reason):
    assert pairs.why_drop(outcome(rewards), PairsConfig(**options)) == reason


def test_members_without_verdict_take_no_part():
    assert pairs.why_drop(outcome([1, 0], scored=[True, False]), PairsConfig()) == "no_verdict"


def test_pairs_made_offline_are_taken_as_they_are():
    group = outcome([0, 0, 0, 0], roles=[1, -1, -1, 1], numbers=[0, 0, 1, 1], scored=[False] * 4)
    config = PairsConfig(selection="given", pairs_per_group=9)
    assert pairs.select(group, config) == [(0, 1), (3, 2)]


@pytest.mark.parametrize(("averaging", "weights"), [("pair_mean", [1 / 3] * 3), ("prompt_mean", [0.25, 0.25, 0.5])])
def test_weights_of_all_pairs_sum_to_one(averaging, weights):
    config = DpoConfig(averaging=averaging, pairs=PairsConfig(selection="all", pairs_per_group=9))
    made = pairs.prepare([outcome([1, 0, 0]), outcome([1, 1]), outcome([1, 0])], config)
    assert [(a.group, a.trajectory_index, a.pair, a.preferred) for a in made] == [
        (0, 0, 0, True),
        (0, 1, 0, False),
        (0, 0, 1, True),
        (0, 2, 1, False),
        (2, 0, 2, True),
        (2, 1, 2, False),
    ]
    assert [a.weight for a in made[::2]] == pytest.approx(weights)
    assert [a.weight for a in made[1::2]] == pytest.approx(weights)
