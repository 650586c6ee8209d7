"""Answers that stand where public reports found them: behind thoughts, phrases, tags, headings, without delimiters."""

import json
from typing import Any

import pytest

from rlserve.verifiers.format import FormatVerifier
from rlserve.verifiers.math.verifier import MathVerifier
from tests.support.reported import cases

KINDS = (
    "extract-answer-tags",
    "extract-box-over-later-answer",
    "extract-box-with-words",
    "extract-emphasis-before-colon",
    "extract-heading-is-marker",
    "extract-list-dash-is-minus",
    "extract-other",
    "extract-phrase-then-display",
    "extract-think-part-counts",
    "extract-two-answers",
    "extract-undelimited-latex",
)
FORMAT_KINDS = ("format-think-prefilled",)
MATH = MathVerifier()


@pytest.mark.parametrize("row", cases(*KINDS))
def test_the_answer_is_found_where_it_stands(row: dict[str, Any]) -> None:
    given = row["input"]
    assert given["how"] == "verifier math, payload without bare"
    verdict = MATH.verify(given["completion"], json.dumps({"answer": given["gold"]}).encode(), "")
    assert verdict.outcome.value == row["expected"], verdict.reason


@pytest.mark.parametrize("row", cases(*FORMAT_KINDS))
def test_a_form_that_the_prompt_began_gets_full_marks(row: dict[str, Any]) -> None:
    given = row["input"]
    assert FormatVerifier().verify(given["completion"], b"", given["prompt"]).reward == 1.0
