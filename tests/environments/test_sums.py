"""The task of sums in chat: right answers, splits that share no sum, clear errors."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.environments.sums import HELD_OUT_PER_CENT, SumsEnvironment, split_of
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Outcome
from rlserve.verifiers.math.verifier import MathVerifier


def asked(split: str, index: int, seed: int, max_number: int = 9) -> tuple[int, int, bytes]:
    task = SumsEnvironment(max_number=max_number).task(split, index, seed)
    assert not isinstance(task.prompt, str)
    a, b = map(int, re.findall("[0-9]+", task.prompt[0].content))
    return a, b, task.payload


@given(st.sampled_from(sorted(HELD_OUT_PER_CENT)), st.integers(0, 10**6), st.integers(0, 99), st.integers(9, 10**6))
def test_a_sum_is_in_its_split_with_its_answer(split: str, index: int, seed: int, max_number: int) -> None:
    a, b, payload = asked(split, index, seed, max_number)
    assert 0 <= a <= max_number and 0 <= b <= max_number
    assert split_of(a, b) == split_of(b, a) == split
    assert int(json.loads(payload)["answer"]) == a + b


def test_each_split_of_one_digit_has_many_sums_and_the_numbers_are_even() -> None:
    seen = {split: {asked(split, i, 0)[:2] for i in range(600)} for split in HELD_OUT_PER_CENT}
    assert sum(map(len, seen.values())) == 100
    assert all(len(sums) >= 12 for sums in seen.values())
    assert len(seen["train"]) >= 50


def test_the_verifier_takes_the_sum_alone() -> None:
    a, b, payload = asked("test", 3, 0)
    outcomes = [MathVerifier().verify(f"{a} + {b} = {n}.", payload, "").outcome for n in (a + b, a + b + 1)]
    assert outcomes == [Outcome.PASS, Outcome.FAIL]


def test_bad_options_and_splits_are_named() -> None:
    with pytest.raises(InvalidRequest, match=r"sums.max_number: is 8; give a number from 9 to 1,000,000"):
        SumsEnvironment(max_number=8)
    with pytest.raises(UnknownName, match="'dev' is not one of sums"):
        SumsEnvironment().task("dev", 0, 0)
