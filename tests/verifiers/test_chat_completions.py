"""Completions as chat models write them, and the answers that a careful reader takes from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.verifiers.math.verifier import MathVerifier

MATH = MathVerifier()
ROWS = [json.loads(line) for line in Path(__file__).with_name("chat_completions.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kind']}-{row['completion'][-24:]!a}-{row['gold'][:12]!a}")
def test_a_completion_is_judged_as_a_careful_reader_would(row: dict[str, Any]) -> None:
    verdict = MATH.verify(row["completion"], json.dumps({"answer": row["gold"]}).encode(), "")
    assert (verdict.reward == 1.0) is row["right"], verdict.reason
