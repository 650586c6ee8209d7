"""The calculator task: right sums, a tool that computes and nothing else, splits that share no problem."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve import plugins
from rlserve.environments.calculator import NOT_A_CALL, CalculatorEnvironment, calculated, calls, split_of
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Outcome
from rlserve.verifiers.text.verifier import ExactVerifier

NUMBERS = st.integers(-(10**12) + 1, 10**12 - 1)


@given(NUMBERS, st.sampled_from("+-*"), st.integers(0, 10**12 - 1))
def test_a_call_is_computed_exactly(left: int, sign: str, right: int) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[sign]
    assert calculated(f"c{left}{sign}{right}=") == f"{expected};"


@given(st.text())
def test_what_is_no_call_is_told_so(text: str) -> None:
    if not re.fullmatch(r"c-?[0-9]+[-+*][0-9]+=", text):
        assert calculated(text) == NOT_A_CALL


@pytest.mark.parametrize(
    "text", ["c1/0=", "c1+1", "1+1=", "c1+1=c1+1=", "c__import__=", "c9**9=", "c\u0663+1=", "c" + "9" * 13 + "+1="]
)
def test_nothing_else_is_evaluated(text: str) -> None:
    assert calculated(text) == NOT_A_CALL


@given(st.integers(0, 10**6), st.integers(0, 99), st.sampled_from(["+", "-", "+-"]))
def test_the_gold_answer_is_the_sum_from_left_to_right(index: int, seed: int, operators: str) -> None:
    environment = CalculatorEnvironment(min_terms=2, max_terms=5, operators=operators)
    task = environment.task("train", index, seed)
    total = sum(map(int, re.findall(r"[-+]?[0-9]+", str(task.prompt))))
    assert json.loads(task.payload)["answer"] == str(total)
    right, wrong = (ExactVerifier().verify(f"c1+1=\n#{n}", task.payload, "") for n in (total, total + 1))
    assert (right.outcome, wrong.outcome) == (Outcome.PASS, Outcome.FAIL)


def test_following_the_demonstrations_solves_the_problem() -> None:
    environment = CalculatorEnvironment(turn_end="|")
    for index in range(50):
        task = environment.task("train", index, 0)
        episode = environment.open(task)
        for call, result in calls(str(task.prompt)):
            assert [m.content for m in episode.step(call).messages] == [f"{result};"]
        assert episode.step("#" + result).done
    shown = [environment.demonstration("train", i, 0) for i in range(200)]
    kinds = {("#" in completion, "|" in prompt) for prompt, completion in shown}
    assert kinds == {(True, False), (True, True), (False, False), (False, True)}


def test_an_episode_ends_with_the_answer_or_when_its_turns_are_used_up() -> None:
    environment = CalculatorEnvironment(turns=3)
    task = environment.task("train", 0, 0)
    assert environment.open(task).step("so #12").done
    episode = environment.open(task)
    assert [episode.step("c1+1=").done for _ in range(3)] == [False, False, True]


def test_no_problem_is_in_two_splits_whatever_the_seed() -> None:
    environment = CalculatorEnvironment()
    problems = {
        split: {str(environment.task(split, index, seed).prompt) for index in range(100) for seed in (0, 1)}
        for split in environment.splits
    }
    assert not problems["train"] & problems["test"] and not problems["validation"] & problems["test"]
    assert all(split_of(problem) == split for split, found in problems.items() for problem in found)
    assert all(len(found) > 100 for found in problems.values())
    assert isinstance(plugins.load(plugins.ENVIRONMENT_GROUP, "calculator")(), plugins.EpisodicEnvironment)


@pytest.mark.parametrize(
    "options", [{"min_terms": 1}, {"max_terms": 17}, {"operators": "*"}, {"operators": ""}, {"turns": 0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"calculator\."):
        CalculatorEnvironment(**options)  # type: ignore[arg-type]


def test_a_bad_split_is_unknown() -> None:
    with pytest.raises(UnknownName, match="test, validation, train"):
        CalculatorEnvironment().task("trian", 0, 0)
