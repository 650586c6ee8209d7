"""What came out of a run, in words and over its lives."""

from typing import Any

import pytest

from rlserve.observability.outcome import measured_line, merge_lives, outcome_lines, seconds_of_lives


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"value": 0.5}, "accuracy before: 0.500"),
        ({"value": 0.5, "reward_mean": 0.25}, "accuracy before: 0.500, mean reward 0.250"),
        ({"value": None}, "accuracy before: no verdict"),
        ({"value": None, "reward_mean": 0.25}, "mean reward before: 0.250"),
        ({"value": 0.0, "samples": 4, "unjudged": 4}, "accuracy before: no verdict"),
        ({"value": 0.0, "samples": 4, "unjudged": 3}, "accuracy before: 0.000"),
        ({"accuracy": 0.5}, "accuracy before: 0.500"),
        ({"value": 0.5, "text": "as the learner says"}, "accuracy before: as the learner says"),
        ({"value": None, "reward_mean": 1, "text": "as it says"}, "mean reward before: as it says"),
    ],
)
def test_a_measurement_in_words(event: dict[str, Any], text: str) -> None:
    assert measured_line(event, "before") == f"held-out {text}"


@pytest.mark.parametrize(
    ("summary", "lines"),
    [
        ({}, []),
        ({"accuracy_before": 0.5, "accuracy_after": 0.75}, ["held-out accuracy 0.500 -> 0.750"]),
        ({"accuracy_before": 0.0, "accuracy_after": None}, ["held-out accuracy 0.000 -> no verdict"]),
        (
            {"accuracy_before": 0, "accuracy_after": 0, "reward_before": 0.06, "reward_after": 0.11},
            ["held-out accuracy 0.000 -> 0.000", "held-out mean reward 0.060 -> 0.110"],
        ),
        (  # all wrong before, on a scale after
            {"accuracy_before": 0.0, "accuracy_after": None, "reward_before": 0.0, "reward_after": 0.11}
            | {"evaluations": {"after": {"measures": {"reward_mean": {"value": 0.11, "low": 0.1, "high": 0.125}}}}},
            ["held-out mean reward 0.000 -> 0.110 [0.100, 0.125]"],
        ),
    ],
)
def test_the_result_in_words(summary: dict[str, Any], lines: list[str]) -> None:
    assert outcome_lines(summary) == lines


def test_seconds_are_those_of_every_life() -> None:
    events = [
        {"event": "run_started", "unix_seconds": 0.0},
        {"event": "phase", "name": "sft", "unix_seconds": 1.0},
        {"event": "phase", "name": "training", "unix_seconds": 3.0},
        {"event": "warning", "unix_seconds": 7.0},
        {"event": "run_started", "unix_seconds": 100.0},
        {"event": "phase", "name": "training", "unix_seconds": 101.0},
        {"event": "run_ended", "unix_seconds": 106.0},
    ]
    assert seconds_of_lives(events) == [{"total": 7.0, "sft": 2.0, "training": 4.0}, {"total": 6.0, "training": 5.0}]
    merged = merge_lives({}, {"steps": 3}, seconds_of_lives(events))
    assert merged == {"steps": 3, "wall_seconds": {"total": 13.0, "sft": 2.0, "training": 9.0}}


def test_a_summary_keeps_what_earlier_lives_did() -> None:
    earlier = {
        "steps": 14,
        "accuracy_before": 0.5,
        "weight_updates": 14,
        "tokens_per_second": 1000.0,
        "stall_seconds": {"p50": 0.01},
        "recovery_seconds": {"rollout-0": 3.0},
        "wall_seconds": {"training": 30.0},
    }
    latest = {
        "steps": 15,
        "accuracy_before": None,
        "weight_updates": 1,
        "tokens_per_second": 400.0,
        "stall_seconds": {"p50": 0.5},
        "recovery_seconds": {"verifier-0": 2.0},
    }
    merged = merge_lives(earlier, latest, [{"training": 30.0}, {"training": 10.0}])
    assert merged == {
        "steps": 15,
        "accuracy_before": 0.5,
        "weight_updates": 15,
        "weight_mismatches": 0,
        "tokens_per_second": 850.0,
        "stall_seconds": {"p50": 0.01},
        "recovery_seconds": {"rollout-0": 3.0, "verifier-0": 2.0},
        "wall_seconds": {"training": 40.0},
    }
