"""The generated task: disjoint splits, purity, demonstrations that its own verifier accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve import plugins
from rlserve.environments.arithmetic import (
    HELD_OUT_PER_MILLE,
    ArithmeticEnvironment,
    answer,
    operands,
    split_of,
    worked,
)
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Outcome

SPLITS = st.sampled_from(sorted(HELD_OUT_PER_MILLE))
INDICES = st.integers(0, 2**40)
SEEDS = st.integers(0, 2**40)


def test_the_registered_plug_in_is_this_class() -> None:
    assert plugins.load(plugins.ENVIRONMENT_GROUP, "arithmetic") is ArithmeticEnvironment
    assert isinstance(ArithmeticEnvironment(), plugins.Environment)


@given(SPLITS, INDICES, SEEDS)
def test_a_task_depends_on_split_index_and_seed_alone(split: str, index: int, seed: int) -> None:
    assert ArithmeticEnvironment().task(split, index, seed) == ArithmeticEnvironment().task(split, index, seed)


def test_a_task_is_the_same_on_every_host_and_python() -> None:
    tasks = [ArithmeticEnvironment().task(split, 7, 3) for split in ("train", "validation", "test")]
    assert [task.prompt for task in tasks] == ["0+1+0+9=", "7+3+1=", "2+9+2+8="]


def test_no_problem_is_in_two_splits_whatever_the_seed() -> None:
    environment = ArithmeticEnvironment()
    seen = {
        split: {environment.task(split, index, seed).prompt for index in range(count) for seed in (0, 1, 2)}
        for split, count in (("train", 5000), ("validation", 1000), ("test", 1000))
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert all(split_of(str(prompt)) == split for split, prompts in seen.items() for prompt in prompts)


def test_five_percent_of_all_problems_are_held_out_for_each_measurement() -> None:
    problems = [f"{a}+{b}+{c}+{d}=" for a in range(10) for b in range(10) for c in range(10) for d in range(10)]
    shares = {split: sum(split_of(p) == split for p in problems) / len(problems) for split in HELD_OUT_PER_MILLE}
    assert shares == pytest.approx({"train": 0.9, "validation": 0.05, "test": 0.05}, abs=0.01)


def test_two_digit_problems_fill_every_split() -> None:
    problems = [f"{a}+{b}=" for a in range(10) for b in range(10)]
    assert {split_of(problem) for problem in problems} == set(HELD_OUT_PER_MILLE)


@given(SPLITS, INDICES, SEEDS, st.integers(2, 6), st.integers(0, 4))
def test_the_gold_answer_is_the_last_digit_of_the_sum(split: str, index: int, seed: int, low: int, more: int) -> None:
    task = ArithmeticEnvironment(min_digits=low, max_digits=low + more).task(split, index, seed)
    digits = [int(character) for character in str(task.prompt) if character.isdigit()]
    assert low <= len(digits) <= low + more
    assert task.payload == f'{{"answer": "{sum(digits) % 10}", "marker": "#"}}'.encode()


@given(SPLITS, INDICES, SEEDS)
def test_every_demonstration_passes_the_tasks_own_verifier(split: str, index: int, seed: int) -> None:
    environment = ArithmeticEnvironment()
    task = environment.task(split, index, seed)
    verifier = plugins.load(plugins.VERIFIER_GROUP, task.verifier)()
    prompt, completion = environment.demonstration(split, index, seed)
    assert prompt == task.prompt
    assert verifier.verify(completion, task.payload, prompt).outcome is Outcome.PASS
    wrong = completion[:-1] + str((int(completion[-1]) + 1) % 10)
    assert verifier.verify(wrong, task.payload, prompt).outcome is Outcome.FAIL
    assert verifier.verify(completion[-1], task.payload, prompt).outcome is Outcome.FAIL, "the marker is missing"


@given(INDICES, SEEDS)
def test_shown_work_is_true_step_by_step_and_ends_in_the_answer(index: int, seed: int) -> None:
    problem = str(ArithmeticEnvironment().task("train", index, seed).prompt)
    running, *rest = operands(problem)
    steps = worked(problem).split(";")[:-1]
    assert len(steps) == len(rest)
    for step, digit in zip(steps, rest, strict=True):
        following = (running + digit) % 10
        assert step == f"{running}+{digit}={following}"
        running = following
    assert str(running) == answer(problem)


def test_half_of_any_even_batch_of_demonstrations_shows_the_work() -> None:
    environment = ArithmeticEnvironment()
    for first in range(0, 640, 32):
        batch = [environment.demonstration("train", first + i, 5)[1] for i in range(32)]
        assert sum(";" in completion for completion in batch) == 16


def test_the_coin_does_not_follow_the_index() -> None:
    environment = ArithmeticEnvironment()
    even = [";" in environment.demonstration("train", index, 0)[1] for index in range(0, 2000, 2)]
    assert 0.45 < sum(even) / len(even) < 0.55


def test_unlabelled_text_is_true_equations_that_cover_all_sums() -> None:
    environment = ArithmeticEnvironment()
    equations = [e for index in range(500) for e in environment.text("train", index, 0).split(";") if e]
    for equation in equations:
        left, right = equation.split("=")
        assert sum(map(int, left.split("+"))) % 10 == int(right)
    assert len({equation.split("=")[0] for equation in equations}) == 100


def test_unlabelled_text_prefers_small_digits() -> None:
    text = "".join(ArithmeticEnvironment().text("train", index, 0) for index in range(300))
    first_operands = [equation[0] for equation in text.split(";") if equation]
    share = {digit: first_operands.count(digit) / len(first_operands) for digit in "0123456789"}
    assert share["0"] == pytest.approx(0.341, abs=0.03)
    assert share["9"] == pytest.approx(0.034, abs=0.015)


def test_an_unknown_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'dev' is not one of arithmetic \(test, validation, train, digits-3"):
        ArithmeticEnvironment().task("dev", 0, 0)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (4, 3), (3, 25)])
def test_impossible_numbers_of_digits_are_refused(low: int, high: int) -> None:
    with pytest.raises(InvalidRequest, match="min_digits"):
        ArithmeticEnvironment(min_digits=low, max_digits=high)
