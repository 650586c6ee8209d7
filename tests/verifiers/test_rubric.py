"""Several verifiers as one: sums, gates, parts that are seen, and no verdict where a part has none."""

import json
from typing import Any

import pytest

from rlserve.errors import InvalidRequest
from rlserve.records import Failure, FailureKind, Outcome, Verdict
from rlserve.verifiers.rubric import RubricVerifier

MATH = {"verifier": "math", "weight": 1.0}
FORMAT = {"verifier": "format", "weight": 0.5, "options": {"strict": False}, "payload": {}}
LENGTH = {"verifier": "length", "weight": 0.1, "options": {"most": 100, "buffer": 50}, "payload": {}}
RIGHT = "<think>2+2</think><answer>\\boxed{4}</answer>"


def judge(rubric: RubricVerifier, text: str, payload: Any = None) -> Verdict:
    return rubric.verify(text, json.dumps(payload or {"payloads": {"math": {"answer": "4"}}}).encode(), "")


def test_the_reward_is_the_weighted_sum_and_every_part_is_seen() -> None:
    rubric = RubricVerifier(parts=[MATH, FORMAT, LENGTH])
    full, bare = judge(rubric, RIGHT), judge(rubric, "\\boxed{4}" + " " * 91)
    assert (full.reward, full.outcome) == (1.5, Outcome.PASS)
    assert bare.reward == pytest.approx(1.0 - 0.1)
    assert bare.outcome is Outcome.FAIL
    assert (bare.parts["math"], bare.parts["format"], bare.parts["length"]) == (1.0, 0.0, -1.0)
    assert bare.parts["length/length"] == 100.0
    assert "format 0" in bare.reason


def test_a_closed_gate_decides() -> None:
    rubric = RubricVerifier(parts=[MATH, FORMAT | {"gate": True, "weight": 0.0}], gate_reward=-0.5)
    assert judge(rubric, RIGHT).reward == 1.0
    closed = judge(rubric, "\\boxed{4}")
    assert (closed.reward, closed.outcome) == (-0.5, Outcome.FAIL)
    assert closed.reason.startswith("gate 'format' is closed")
    assert closed.parts["math"] == 1.0


def test_a_task_without_payloads_gives_its_own_to_all() -> None:
    assert judge(RubricVerifier(parts=[MATH]), "\\boxed{4}", {"answer": "4"}).reward == 1.0


def test_the_range_of_rewards_follows_from_the_parts() -> None:
    assert RubricVerifier(parts=[MATH, FORMAT, LENGTH]).reward_range == (-0.1, 1.6)
    assert RubricVerifier(parts=[MATH | {"gate": True}], gate_reward=-2.0).reward_range == (-2.0, 1.0)


def test_a_part_without_a_verdict_leaves_the_whole_without_one() -> None:
    class Silent:
        def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
            failure = Failure(source="verifier:x", kind=FailureKind.RESOURCE, message="no memory", retriable=True)
            return Verdict.none(failure)

    rubric = RubricVerifier(parts=[MATH, FORMAT])
    object.__setattr__(rubric._parts[1], "verifier", Silent())
    verdict = judge(rubric, RIGHT)
    assert not verdict.has_reward
    assert verdict.failure is not None
    assert (verdict.failure.message, verdict.failure.retriable) == ("part 'format': no memory", True)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([{"verifier": "rubric"}], r"parts\[0\]\.verifier: is a rubric"),
        ([{"weight": 1}], r"parts\[0\]\.verifier: is missing"),
        ([MATH, MATH], "'math' occurs twice"),
        ([MATH | {"colour": 1}], r"parts\[0\]\.colour"),
        ([MATH | {"weight": float("nan")}], r"parts\[0\]\.weight"),
    ],
)
def test_faults_of_a_rubric_are_named(parts: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        RubricVerifier(parts=parts)


def test_a_payload_that_lacks_a_part_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"payload\.payloads\.math"):
        judge(RubricVerifier(parts=[MATH]), "4", {"payloads": {"other": {}}})
    with pytest.raises(InvalidRequest, match=r"options\.parts: is empty"):
        judge(RubricVerifier(), "4")


def test_a_task_may_bring_its_own_rubric_but_no_options() -> None:
    own = [{"verifier": "math", "weight": 2.0}, {"verifier": "length", "weight": 0.0}]
    payloads = {"math": {"answer": "4"}, "length": {}}
    for rubric in (RubricVerifier(), RubricVerifier(parts=[FORMAT])):
        verdict = judge(rubric, "\\boxed{4}", {"parts": own, "payloads": payloads})
        assert (verdict.reward, verdict.parts["math"], verdict.parts["length/length"]) == (2.0, 1.0, 9.0)
    own[0]["options"] = {"percent": "lenient"}
    with pytest.raises(InvalidRequest, match=r"payload\.parts: has options"):
        judge(RubricVerifier(), "4", {"parts": own, "payloads": payloads})
    with pytest.raises(InvalidRequest, match=r"payload\.parts\[0\]\.verifier: is a rubric"):
        judge(RubricVerifier(), "4", {"parts": [{"verifier": "rubric"}], "payloads": {}})
