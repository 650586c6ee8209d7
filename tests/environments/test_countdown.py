"""Countdown: problems that can be solved, answers judged by exact arithmetic."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.environments.countdown import SPLITS, CountdownEnvironment, split_of
from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.verifiers.countdown.expression import NoExpression, evaluate
from rlserve.verifiers.countdown.verifier import CountdownVerifier

VERIFIER = CountdownVerifier()


def judge(answer: str, **payload: object) -> Outcome:
    content = {"numbers": [3, 7, 25], "target": 46} | payload
    return VERIFIER.verify(answer, json.dumps(content).encode(), "").outcome


@given(st.integers(0, 10**6), st.integers(0, 2**40), st.sampled_from(SPLITS), st.integers(2, 6), st.booleans())
def test_every_problem_has_a_solution_that_is_right(
    index: int, seed: int, split: str, numbers: int, all_: bool
) -> None:
    environment = CountdownEnvironment(numbers=numbers, use_all=all_, prompt_format="text")
    task = environment.task(split, index, seed)
    prompt, solution = environment.demonstration(split, index, seed)
    assert prompt == task.prompt
    assert VERIFIER.verify(solution, task.payload, "").outcome is Outcome.PASS
    assert split_of(json.loads(task.payload)["numbers"]) == split
    assert environment.task(split, index, seed) == task


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("7*3+25", Outcome.PASS),
        ("(25 + 7 * 3) = 46", Outcome.PASS),
        ("thinking\n25+7*3", Outcome.PASS),
        ("25+21", Outcome.FAIL),
        ("46", Outcome.FAIL),
        ("25+7*3+0", Outcome.FAIL),
        ("25+7+7+7", Outcome.FAIL),
        ("25+7*3 = 47", Outcome.FAIL),
        ("25/(7-7)", Outcome.FAIL),
        ("", Outcome.FAIL),
        ("__import__('os')", Outcome.FAIL),
        ("25**7", Outcome.FAIL),
        ("(" * 400, Outcome.FAIL),
        ("9" * 1000, Outcome.FAIL),
        ("25\u00d77", Outcome.FAIL),
    ],
)
def test_answers_are_judged_by_the_rules(answer: str, outcome: Outcome) -> None:
    assert judge(answer) is outcome


def test_all_numbers_can_be_asked_for_and_tags_too() -> None:
    assert judge("25+7*3", use_all=True) is Outcome.PASS
    assert judge("25-7", target=18) is Outcome.PASS
    assert judge("25-7", target=18, use_all=True) is Outcome.FAIL
    assert judge("so <answer>25-7</answer>", target=18, tags=True) is Outcome.PASS
    assert judge("25-7", target=18, tags=True) is Outcome.FAIL


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.builds(lambda a, s, b: f"({a}{s}{b})", inner, st.sampled_from("+-*/"), inner),
    max_leaves=8,
)


@given(expressions)
def test_values_equal_exact_arithmetic_oracle(text: str) -> None:
    import re

    try:
        value, numbers = evaluate(text)
    except NoExpression as error:
        assert "division by zero" in str(error)
        return
    assert value == eval(re.sub(r"\d+", lambda m: f"Fraction({m[0]})", text), {"Fraction": Fraction})
    assert numbers == [int(number) for number in re.findall(r"\d+", text)]


@given(st.text(alphabet="0123456789+-*/(). =x\u00d7", max_size=60))
def test_any_text_is_a_value_or_no_expression(text: str) -> None:
    try:
        evaluate(text)
    except NoExpression:
        return


def test_options_are_checked() -> None:
    with pytest.raises(InvalidRequest, match=r"countdown\.numbers"):
        CountdownEnvironment(numbers=1)
