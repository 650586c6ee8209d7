"""Some hundred pairs of the differential bench: other notations of an answer, near misses, and no mistake."""

import json
import random

import pytest

from rlserve.bench.verdicts.notations import Variant, variants
from rlserve.records import Outcome
from rlserve.verifiers.math.verifier import MathVerifier

ANSWERS = ["18", "0", "-7", "1,200", "3.5", "2/3", "-5/4", "144", "70000", "0.05", "7/2", "x^2 + 3*x - 1", "2 + 3i"]


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier()


@pytest.mark.parametrize("answer", ANSWERS)
def test_notations_of_an_answer_pass_and_near_misses_fail(verifier: MathVerifier, answer: str) -> None:
    payload = json.dumps({"answer": answer, "bare": True}).encode()
    wrong = [
        variant
        for variant in variants(answer, random.Random(0))
        if (verifier.verify(variant.text, payload, "").outcome is Outcome.PASS) != variant.same
    ]
    assert wrong == []


def test_the_slice_has_hundreds_of_pairs_of_both_sorts() -> None:
    made: list[Variant] = [variant for answer in ANSWERS for variant in variants(answer, random.Random(0))]
    assert sum(variant.same for variant in made) > 200
    assert sum(not variant.same for variant in made) > 200
