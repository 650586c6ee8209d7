"""The decision on a finished group, from the group, its lease and the facts alone."""

from dataclasses import replace
from typing import Any

import pytest

from rlserve.actors.learner.ingest.admission import AckStatus, Facts, Offer, Opened, decide, receipt
from rlserve.errors import InvalidRequest
from rlserve.records import Purpose, RolloutGroup
from rlserve.records.lease import Lease
from tests.support.intake import answer

LEASE = Lease(
    group_id="run/train/0", environment="arithmetic", split="train", index=0, seed=7, num_samples=2, limit_seconds=30.0
)
EVALUATION = replace(LEASE, group_id="run/before/arithmetic/0", purpose=Purpose.EVALUATE)
AT_5 = Facts(version=5, newest_known=6, max_lag=2, temperature=1.0)


def opened(group: RolloutGroup, **changes: Any) -> Opened:
    offer = Offer(group_id=group.group_id, nonce="n", worker_id="w", payload=b"payload")
    return Opened(**{"offer": offer, "group": group, **changes})


@pytest.mark.parametrize(
    ("lease", "version", "status", "counted"),
    [
        (LEASE, 3, AckStatus.ACCEPTED, False),
        (LEASE, 2, AckStatus.STALE, True),
        (LEASE, 6, AckStatus.ACCEPTED, False),  # a worker may swap before the learner counts it as published
        (LEASE, 7, AckStatus.REJECTED, True),
        (EVALUATION, 5, AckStatus.ACCEPTED, False),
        (EVALUATION, 4, AckStatus.STALE, False),  # no failure: the worker had not swapped yet
    ],
)
def test_the_oldest_token_decides_by_the_bound_of_its_purpose(
    lease: Lease, version: int, status: AckStatus, counted: bool
) -> None:
    decision = decide(opened(answer(lease, spans=[(version, 4)])), lease, AT_5)
    assert (decision.status, decision.counted) == (status, counted)
    assert (decision.versions is not None) == (status is AckStatus.ACCEPTED)


def test_a_copy_is_a_duplicate_before_anything_else_is_held_against_it() -> None:
    wrong = replace(answer(LEASE, spans=[(5, 4)]), purpose=Purpose.EVALUATE)
    facts = replace(AT_5, already_received=True)
    assert decide(opened(wrong), LEASE, facts).status is AckStatus.DUPLICATE
    assert decide(opened(wrong), None, facts).status is AckStatus.DUPLICATE
    assert decide(opened(wrong), LEASE, AT_5).reason == "wrong_task"


def test_a_group_without_a_lease_and_an_unreadable_one_are_rejected_with_their_reasons() -> None:
    assert decide(opened(answer(LEASE, spans=[(5, 4)])), None, AT_5).reason == "unknown_lease"
    error = InvalidRequest("payload: is torn; send it whole", field="payload", reason="malformed")
    unreadable = replace(opened(answer(LEASE)), group=None, error=error)
    decision = decide(unreadable, LEASE, replace(AT_5, already_received=True))
    assert (decision.status, decision.reason, decision.counted) == (AckStatus.REJECTED, "malformed", True)
    assert receipt(unreadable, decision) is None


def test_the_store_keeps_the_payload_of_what_is_trained_on_and_nothing_of_an_evaluation() -> None:
    group = answer(LEASE, spans=[(4, 2), (5, 2)])
    kept = receipt(opened(group), decide(opened(group), LEASE, AT_5))
    assert kept is not None
    assert (kept.payload, kept.dropped, kept.info.oldest_version, kept.info.reward_mean) == (b"payload", "", 4, 0.5)
    useless = opened(group, why_drop="zero_variance")
    dropped = receipt(useless, decide(useless, LEASE, AT_5))
    assert dropped is not None
    assert (dropped.payload, dropped.dropped) == (b"", "zero_variance")
    measured = opened(answer(EVALUATION, spans=[(5, 4)]))
    assert receipt(measured, decide(measured, EVALUATION, AT_5)) is None
