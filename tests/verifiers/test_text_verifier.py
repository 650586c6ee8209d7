"""Exact match and regular expressions."""

import json
import time

import pytest

from rlserve import plugins
from rlserve.errors import InvalidRequest
from rlserve.verifiers.text.verifier import ExactVerifier, RegexVerifier


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_the_registered_plug_ins_are_these_classes() -> None:
    assert plugins.load(plugins.VERIFIER_GROUP, "exact") is ExactVerifier
    assert plugins.load(plugins.VERIFIER_GROUP, "regex") is RegexVerifier


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("3+8=1;1+5=6;#6", 1.0),
        ("#6", 1.0),
        ("# 6 \n", 1.0),
        ("#5#6", 1.0),
        ("#6#5", 0.0),
        ("6", 0.0),
        ("#66", 0.0),
        ("", 0.0),
    ],
)
def test_the_answer_is_what_follows_the_last_marker(completion: str, reward: float) -> None:
    assert ExactVerifier(marker="#").verify(completion, payload(answer="6"), "").reward == reward
    assert ExactVerifier().verify(completion, payload(answer="6", marker="#"), "").reward == reward


def test_the_marker_of_the_task_goes_before_the_option() -> None:
    assert ExactVerifier(marker="#").verify("=6", payload(answer="6", marker="="), "").reward == 1.0
    assert ExactVerifier(marker="#").verify("#6", payload(answer="#6", marker=""), "").reward == 1.0


def test_case_matters_unless_it_is_ignored() -> None:
    assert ExactVerifier().verify("Paris", payload(answer="paris"), "").reward == 0.0
    assert ExactVerifier(ignore_case=True).verify("Paris", payload(answer="paris"), "").reward == 1.0


def test_any_of_several_answers_is_right() -> None:
    assert ExactVerifier().verify("b", payload(answer=["a", "b"]), "").reward == 1.0


def test_the_reason_says_what_was_expected_and_found() -> None:
    assert (
        ExactVerifier().verify("41", payload(answer="42"), "").reason == "expected '42', found '41' (rule: same text)"
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (b"6", "payload"),
        (b"{}", "payload.answer"),
        (b'{"answer": 6}', "payload.answer"),
        (b'{"answer": "6", "marker": 1}', "payload.marker"),
        (b'{"answer": "6", "x": 1}', "payload.x"),
    ],
)
def test_a_malformed_payload_is_an_error_and_not_a_reward(bad: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ExactVerifier().verify("6", bad, "")
    assert caught.value.field == field


def test_an_exact_verdict_costs_microseconds() -> None:
    verifier, task = ExactVerifier(marker="#"), payload(answer="6")
    start = time.process_time()
    for _ in range(2000):
        verifier.verify("3+8=1;1+5=6;#6", task, "")
    assert (time.process_time() - start) / 2000 < 100e-6


def test_a_pattern_matches_anywhere_or_in_full() -> None:
    task = payload(pattern="[0-9]+")
    assert RegexVerifier().verify("it is 42", task, "").reward == 1.0
    assert RegexVerifier().verify("none", task, "").reward == 0.0
    assert RegexVerifier(full=True).verify("it is 42", task, "").reward == 0.0
    assert RegexVerifier(full=True, marker="#").verify("it is #42", task, "").reward == 1.0


def test_a_pattern_that_does_not_compile_is_the_tasks_fault() -> None:
    with pytest.raises(InvalidRequest, match=r"payload\.pattern"):
        RegexVerifier().verify("x", payload(pattern="("), "")
