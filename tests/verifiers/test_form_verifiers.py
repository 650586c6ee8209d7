"""Format, length and JSON: what they take, what they refuse."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.verifiers.format import FormatVerifier
from rlserve.verifiers.json_schema import JsonSchemaVerifier
from rlserve.verifiers.length import LengthVerifier, near_target, overlong_penalty


@pytest.mark.parametrize(
    ("text", "right", "share"),
    [
        ("<think>a</think> <answer>b</answer>", True, 1.0),
        ("<think>a</think><answer>b</answer> more", False, 1.0),
        ("<answer>b</answer><think>a</think>", False, 0.5),
        ("<think>a</think>", False, 0.5),
        ("<think>a<answer>b</answer></think>", False, 0.5),
        ("<think>a</think><think>a</think><answer>b</answer>", False, 0.5),
        ("</think>a<think><answer>b</answer>", False, 0.5),
        ("", False, 0.0),
    ],
)
def test_tags_stand_once_closed_and_in_order(text: str, right: bool, share: float) -> None:
    verdict = FormatVerifier().verify(text, b"", "")
    assert (verdict.outcome is Outcome.PASS, verdict.reward, verdict.parts["tags"]) == (right, float(right), share)


def test_a_format_may_be_loose_partial_or_the_tasks_own() -> None:
    assert FormatVerifier(strict=False).verify("so <think></think><answer></answer>.", b"", "").reward == 1.0
    assert FormatVerifier(partial=True).verify("<think>a</think>", b"", "").reward == 0.5
    assert FormatVerifier().verify("<plan>a</plan>", b'{"tags": ["plan"]}', "").reward == 1.0
    for tags in ([], ["a b"], ["a", "a"], "think"):
        with pytest.raises(InvalidRequest, match=r"payload\.tags"):
            FormatVerifier().verify("", json.dumps({"tags": tags}).encode(), "")


@given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 200))
def test_the_overlong_penalty_falls_from_nothing_to_minus_one(length: int, most: int, buffer: int) -> None:
    buffer = min(buffer, most)
    penalty = overlong_penalty(length, most, buffer)
    assert -1 <= penalty <= 0
    assert (penalty == 0) == (length <= most - buffer)
    assert penalty >= overlong_penalty(length + 1, most, buffer)
    assert overlong_penalty(most, most, 0) == 0


def test_dapo_values() -> None:
    assert [overlong_penalty(n, 100, 20) for n in (80, 85, 90, 100, 101)] == [0, -0.25, -0.5, -1, -1]
    assert [near_target(n, 10, 4) for n in (10, 9, 12, 15, 5)] == [1, 0.8, 0.6, 0, 0]


def test_length_units_and_payloads() -> None:
    assert LengthVerifier(most=3, buffer=1, unit="words").verify("a b c d", b"", "").reward == -1
    assert LengthVerifier(target=4, tolerance=1).verify("abcd", b"", "").outcome is Outcome.PASS
    assert LengthVerifier().verify("abcd", b'{"target": 9}', "").outcome is Outcome.FAIL
    for options in ({"unit": "lines"}, {"unit": "tokens"}, {"most": -1}, {"most": 1, "buffer": 2}):
        with pytest.raises(InvalidRequest, match="options"):
            LengthVerifier(**options)  # type: ignore[arg-type]


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "parses", "valid"),
    [
        ('{"a": 1}', 1, 1),
        ('Here:\n```json\n{"a": 1}\n```\nok', 1, 1),
        ('{"a": "1"}', 1, 0),
        ('{"a": 1, "b": 2}', 1, 0),
        ("{'a': 1}", 0, 0),
        ('{"a": NaN}', 0, 0),
        ("[" * 5000 + "]" * 5000, 0, 0),
        ("", 0, 0),
    ],
)
def test_json_is_judged_by_the_schema(text: str, parses: int, valid: int) -> None:
    verdict = JsonSchemaVerifier(partial=0.2).verify(text, json.dumps({"schema": SCHEMA}).encode(), "")
    assert dict(verdict.parts) == {"parses": parses, "valid": valid}
    assert verdict.reward == (1.0 if valid else 0.2 * parses)


def test_a_schema_that_is_none_is_refused_and_a_reference_is_never_fetched() -> None:
    def judge(schema: Any) -> None:
        JsonSchemaVerifier().verify("{}", json.dumps({"schema": schema}).encode(), "")

    with pytest.raises(InvalidRequest, match=r"payload\.schema"):
        judge({"type": "colour"})
    with pytest.raises(InvalidRequest, match=r"payload\.schema"):
        judge("x")
    with pytest.raises(Exception, match="Unresolvable"):
        judge({"$ref": "http://127.0.0.1:9/schema"})
