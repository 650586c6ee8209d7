"""Public reports of answers that graders read wrongly: each gets the verdict that it should."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from rlserve.verifiers.math.verifier import MathVerifier
from tests.support.reported import cases

KINDS = (
    "math-choice-with-text",
    "math-cjk",
    "math-clock-times",
    "math-counts",
    "math-crash-free-letter",
    "math-matrix-forms",
    "math-prefilter-code",
    "math-relation-left-side",
    "math-roman-constants",
    "math-sets-in-words",
    "math-tex-style-commands",
    "math-unicode-numerals",
    "math-unicode-root",
    "math-unit-forms",
    "math-unknown-word-as-unit",
    "math-word-ratio",
)


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    verifier = MathVerifier()
    verifier.prepare()
    return verifier


def judge(verifier: MathVerifier, gold: str, completion: str, *, bare: bool) -> str:
    payload = json.dumps({"answer": gold, "bare": bare}).encode()
    return verifier.verify(completion, payload, "").outcome.value


@pytest.mark.parametrize("row", cases(*KINDS))
def test_a_reported_answer_gets_its_verdict(verifier: MathVerifier, row: Mapping[str, Any]) -> None:
    given = row["input"]
    bare = "answer" in given
    assert judge(verifier, given["gold"], given["answer" if bare else "completion"], bare=bare) == row["expected"]


@pytest.mark.parametrize("row", cases("math-slow-path-depends-on-load"))
def test_limits_sums_and_integrals_pass_however_cold_the_worker_is(
    verifier: MathVerifier, row: Mapping[str, Any]
) -> None:
    assert [judge(verifier, *pair, bare=True) for pair in row["input"]["cases"]] == ["pass"] * len(
        row["input"]["cases"]
    )
