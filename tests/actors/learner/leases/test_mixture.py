"""Which task comes next."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.actors.learner.leases.mixture import MixtureEntry, TaskSource
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.records import Sampling


def mixture(**weights: float) -> list[MixtureEntry]:
    return [MixtureEntry(name, "train", weight) for name, weight in weights.items()]


def names(source: TaskSource, counters: range) -> str:
    return " ".join(f"{task.environment}{task.index}" for task in map(source.at, counters))


mixtures = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.001, 100), min_size=1).map(lambda w: mixture(**w))


def test_weights_two_to_one_alternate_evenly() -> None:
    assert names(TaskSource(0, mixture(a=2, b=1)), range(6)) == "a0 b0 a1 a2 b1 a3"


def test_an_environment_of_weight_zero_is_never_asked() -> None:
    assert {TaskSource(0, mixture(a=1, b=0)).at(c).environment for c in range(100)} == {"a"}


@settings(max_examples=60, deadline=None)
@given(mixtures, st.lists(st.tuples(st.integers(0, 300), mixtures), max_size=3))
def test_every_environment_counts_its_own_index_up_from_0(
    first: list[MixtureEntry], changes: list[tuple[int, list[MixtureEntry]]]
) -> None:
    source = TaskSource(3, first)
    start = 0
    for wait, entries in changes:
        start += wait
        source = source.changed(start, entries)
    seen: Counter[str] = Counter()
    for counter in range(start + 500):
        task = source.at(counter)
        assert task.index == seen[task.environment]
        seen[task.environment] += 1


@settings(max_examples=60, deadline=None)
@given(mixtures, st.integers(1, 3000))
def test_shares_follow_the_weights_at_any_time(entries: list[MixtureEntry], length: int) -> None:
    source = TaskSource(0, entries)
    seen = Counter(source.at(counter).environment for counter in range(length))
    total = sum(i.weight for i in entries)
    for entry in entries:
        # One task for the spreading, and the rounding of each share to a thousandth.
        allowed = len(entries) + length * len(entries) / 1000
        assert abs(seen[entry.environment] - length * entry.weight / total) <= allowed


@settings(max_examples=30, deadline=None)
@given(mixtures, mixtures, st.integers(0, 400))
def test_a_change_of_the_mixture_leaves_the_past_as_it_was(
    first: list[MixtureEntry], second: list[MixtureEntry], counter: int
) -> None:
    before = TaskSource(1, first)
    after = before.changed(counter, second)
    assert names(before, range(counter)) == names(after, range(counter))
    assert {after.at(counter + n).environment for n in range(50)} <= {i.environment for i in second}


def test_an_environment_that_comes_back_goes_on_where_it_stopped() -> None:
    source = TaskSource(0, mixture(a=1, b=1)).changed(4, mixture(b=1)).changed(6, mixture(a=1))
    assert names(source, range(8)) == "a0 b0 a1 b1 b2 b3 a2 a3"


def test_a_saved_source_gives_the_same_tasks() -> None:
    sampling = Sampling(temperature=0.5, max_new_tokens=9, stop=("a", "b"), stop_token_ids=(3,))
    guest = MixtureEntry("guest", "train", 1.0, sampling)
    source = TaskSource(5, mixture(a=0.7, b=0.3)).changed(17, [*mixture(b=2, c=1), guest])
    assert {source.at(c).sampling for c in range(17, 30)} == {Sampling(), sampling}
    again = TaskSource.decode(source.encode())
    assert [again.at(c) for c in range(200)] == [source.at(c) for c in range(200)]
    assert again.mixture == source.mixture


def test_seeds_differ_between_counters_and_between_runs_and_are_exact_as_doubles() -> None:
    seeds = [TaskSource(seed, mixture(a=1)).at(counter).seed for seed in range(20) for counter in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**52 and int(float(seed)) == seed for seed in seeds)


def test_a_late_task_is_found_without_replaying_the_early_ones() -> None:
    assert TaskSource(0, mixture(a=3, b=1)).at(4 * 10**15).index == 3 * 10**15


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "at least one above 0"),
        (mixture(a=0), "at least one above 0"),
        (mixture(a=1, b=-1), ">= 0"),
        (mixture(a=float("nan"), b=1), "finite"),
        (mixture(a=1) * 2, "twice"),
    ],
)
def test_an_impossible_mixture_is_refused(wrong: list[MixtureEntry], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        TaskSource(0, wrong)


def test_the_past_cannot_be_changed() -> None:
    with pytest.raises(InvalidRequest, match="last changed at 10"):
        TaskSource(0, mixture(a=1)).changed(10, mixture(b=1)).changed(9, mixture(a=1))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 0, "segments": []}', '{"seed": 0, "segments": [{}]}'])
def test_a_broken_saved_source_is_corrupt_state(text: str) -> None:
    with pytest.raises(StateCorrupt, match="task source"):
        TaskSource.decode(text)
