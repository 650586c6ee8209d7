"""The math verifier as runs use it: shared cases, GSM8K, payloads, reasons."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlserve import plugins
from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.math.verifier import MathVerifier

DATA = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def rows(name: str) -> Iterator[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"RLSERVE_SHARED names no folder with data/{name}")
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier()


def judge(verifier: MathVerifier, completion: str, gold: str, **fields: Any) -> Verdict:
    return verifier.verify(completion, json.dumps({"answer": gold, **fields}).encode(), "")


def test_the_registered_plug_in_is_this_class() -> None:
    assert plugins.load(plugins.VERIFIER_GROUP, "math") is MathVerifier


def test_every_strict_case_of_the_shared_file_gets_its_outcome(verifier: MathVerifier) -> None:
    wrong = [
        (row["id"], verdict.reason)
        for row in rows("adversarial_math.jsonl")
        if row["strict"]
        and ((verdict := judge(verifier, row["answer"], row["gold"], bare=True)).outcome is Outcome.PASS)
        != row["expected"]
    ]
    assert wrong == []


def test_all_gsm8k_solutions_are_right_and_with_another_number_wrong(verifier: MathVerifier) -> None:
    solutions = [row["answer"] for row in rows("gsm8k_test.jsonl")]
    assert len(solutions) == 1319
    for solution in solutions:
        work, _, gold = solution.partition("#### ")
        assert judge(verifier, solution, gold).reward == 1.0
        assert judge(verifier, solution, solution).reward == 1.0, "the gold answer may come as a solution"
        assert judge(verifier, f"{work}The answer is ${gold}.", gold).reward == 1.0
        assert judge(verifier, f"{work}#### {gold}1", gold).reward == 0.0
        assert judge(verifier, f"{work}\\boxed{{-{gold}}}", gold).reward == float(gold == "0")


def test_the_reason_names_gold_answer_and_both_rules(verifier: MathVerifier) -> None:
    verdict = judge(verifier, "so \\boxed{\\frac{2}{4}}", "0.5")
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == "expected '0.5', found '\\\\frac{2}{4}' (found by: box; decided by: number)"
    assert (verdict.passed, verdict.total) == (1, 1)


def test_no_answer_is_a_fail_that_says_so(verifier: MathVerifier) -> None:
    verdict = judge(verifier, "I cannot tell what this is about", "5")
    assert (verdict.outcome, verdict.reward, verdict.parts["answered"]) == (Outcome.FAIL, 0.0, 0.0)
    assert "found no answer" in verdict.reason


def test_a_refused_answer_is_a_fail_that_is_counted_apart(verifier: MathVerifier) -> None:
    verdict = judge(verifier, "\\boxed{\\input{/etc/passwd}}", "5")
    assert (verdict.outcome, verdict.parts["refused"]) == (Outcome.FAIL, 1.0)
    assert verdict.reason.startswith("rejected: forbidden command")


def test_an_answer_beyond_the_time_limit_is_a_fail_that_is_counted_apart(verifier: MathVerifier) -> None:
    verifier.prepare()
    verdict = judge(verifier, "\\boxed{\\sum_{k=1}^{10^9} \\frac{\\sin k}{k}}", "5")
    assert (verdict.outcome, verdict.parts["timeout"]) == (Outcome.FAIL, 1.0)
    assert verdict.reason.startswith("timeout")


@pytest.mark.parametrize(
    ("gold", "answer", "reward"),
    [
        ("55", "\\sum_{k=1}^{10} k", 1.0),
        ("1", "\\lim_{x\\to 0} \\frac{\\sin x}{x}", 1.0),
        ("5", "\\int_0^5 1\\,dx", 1.0),
        ("5", "\\int_0^4 1\\,dx", 0.0),
        ("5", "\\prod_{k=1}^{10^9} k", 0.0),
        ("\\{1,2\\}", "\\sum_{k=1}^{10} k", 0.0),
    ],
)
def test_integrals_sums_and_limits_are_decided_by_math_verify(
    verifier: MathVerifier, gold: str, answer: str, reward: float
) -> None:
    assert judge(verifier, f"\\boxed{{{answer}}}", gold).reward == reward


def test_any_of_several_gold_answers_is_right(verifier: MathVerifier) -> None:
    payload = json.dumps({"answer": ["north", "\\uparrow", "N"]}).encode()
    assert verifier.verify("\\boxed{N}", payload, "").reward == 1.0
    assert verifier.verify("\\boxed{S}", payload, "").reward == 0.0


def test_reasons_are_short_and_printable_whatever_was_answered(verifier: MathVerifier) -> None:
    reason = judge(verifier, "\\boxed{\x1b[31m\u202e" + "x" * 50_000 + "}", "5").reason
    assert reason.isascii() and reason.isprintable() and len(reason) < 1000


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "payload"),
        (b"42", "payload"),
        (b"\xff\xfe", "payload"),
        (b"[" * 100_000, "payload"),
        (b"{}", "payload.answer"),
        (b'{"answer": 42}', "payload.answer"),
        (b'{"answer": ""}', "payload.answer"),
        (b'{"answer": []}', "payload.answer"),
        (b'{"answer": "$$"}', "payload.answer"),
        (b'{"answer": "42", "bare": 1}', "payload.bare"),
        (b'{"answer": "42", "unit": "cm"}', "payload.unit"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else value,
)
def test_a_malformed_payload_is_an_error_that_names_the_field(
    verifier: MathVerifier, payload: bytes, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        verifier.verify("42", payload, "")
    assert caught.value.field == field


def test_an_unknown_percent_policy_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="strict or lenient"):
        MathVerifier(percent="loose")
