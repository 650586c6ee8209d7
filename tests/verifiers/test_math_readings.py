"""Kinds of notation that honest answers use, and near misses beside them: ``math_pairs.tsv`` has the verdicts."""

import csv
import json
from pathlib import Path

import pytest

from rlserve.verifiers.math.verifier import MathVerifier

PATH = Path(__file__).with_name("math_pairs.tsv")
with PATH.open(encoding="utf-8", newline="") as lines:
    ROWS = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
KINDS = list(dict.fromkeys(row["kind"] for row in ROWS))


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_every_notation_of_a_kind_gets_its_verdict(verifier: MathVerifier, kind: str, verdict: str) -> None:
    rows = [row for row in ROWS if (row["kind"], row["verdict"]) == (kind, verdict)]
    assert rows
    wrong = []
    for row in rows:
        payload = json.dumps({"answer": row["gold"], "bare": True}).encode()
        found = verifier.verify(row["answer"], payload, "")
        if found.outcome.value != verdict:
            wrong.append((row["gold"], row["answer"], found.reason))
    assert wrong == []
