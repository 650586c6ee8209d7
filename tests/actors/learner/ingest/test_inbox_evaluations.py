"""The groups of an evaluation: first, of the present version, and counted apart."""

import time
from pathlib import Path

import pytest

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.errors import DeadlineExceeded
from rlserve.records import Purpose
from rlserve.records.lease import Lease
from tests.support.intake import (
    counts,
    deliver,
    ids,
    lease_out,
    make_inbox,
    return_lease,
)


def evaluation(number: int, name: str = "before") -> list[Lease]:
    return [
        Lease(
            group_id=f"run/{name}/arithmetic/{index}",
            environment="arithmetic",
            split="test",
            index=index,
            seed=index,
            num_samples=1,
            purpose=Purpose.EVALUATE,
            limit_seconds=30.0,
        )
        for index in range(number)
    ]


def test_an_evaluation_comes_first_and_is_counted_apart(inbox: Inbox) -> None:
    leases = evaluation(3)
    inbox.evaluate(leases)
    assert lease_out(inbox, capacity=3) == leases
    assert deliver(inbox, leases[::-1], rewards=(1.0,)) == ["accepted"] * 3
    assert ids(inbox.take_evaluation(3, deadline_seconds=1)) == [lease.group_id for lease in leases]
    assert inbox.queue.counts() == counts(0)
    assert inbox.evaluation_counts().received == 3
    assert deliver(inbox, leases, rewards=(1.0,)) == ["duplicate"] * 3
    with pytest.raises(DeadlineExceeded):
        inbox.queue.take(1, deadline_seconds=0)


def test_an_evaluation_keeps_groups_that_training_would_drop(inbox: Inbox) -> None:
    inbox.evaluate(evaluation(2))
    first, second = lease_out(inbox, capacity=2)
    deliver(inbox, [first], rewards=(None,))
    deliver(inbox, [second], rewards=(0.0,))
    assert len(inbox.take_evaluation(2, deadline_seconds=0)) == 2


def test_an_evaluation_measures_the_present_version_only(inbox: Inbox) -> None:
    inbox.queue.published(7)
    inbox.evaluate(evaluation(1))
    leases = lease_out(inbox, capacity=1)
    assert deliver(inbox, leases, rewards=(1.0,), spans=[(6, 1), (7, 3)]) == ["stale"]
    time.sleep(0.3)
    assert inbox.grant()["w"] == leases
    assert deliver(inbox, leases, rewards=(1.0,), spans=[(7, 4)]) == ["accepted"]
    assert len(inbox.take_evaluation(1, deadline_seconds=0)) == 1
    assert inbox.queue.rejections() == {}


def test_an_evaluation_ends_without_a_group_that_nobody_can_make(path: Path) -> None:
    inbox = make_inbox(path)
    now = [0.0]
    inbox._leases._clock = lambda: now[0]
    inbox.evaluate(evaluation(2))
    good, poison = lease_out(inbox, capacity=2)
    deliver(inbox, [good], rewards=(1.0,))
    for _ in range(20):
        return_lease(inbox, poison, "PluginFailed: broken task")
        now[0] += 60
        inbox.grant()
    assert ids(inbox.take_evaluation(2, deadline_seconds=0)) == [good.group_id]
    done = inbox.evaluation_counts()
    assert (done.asked, done.received, done.abandoned, done.pending) == (2, 1, 1, 0)


def test_an_evaluation_that_does_not_come_names_what_is_missing(inbox: Inbox) -> None:
    inbox.evaluate(evaluation(2))
    leases = lease_out(inbox, capacity=2)
    deliver(inbox, leases[:1], rewards=(1.0,))
    with pytest.raises(DeadlineExceeded, match=r"1 of 2 .*run/before/arithmetic/1.*w holds 1 leases"):
        inbox.take_evaluation(2, deadline_seconds=0)


def test_a_new_evaluation_ends_an_unfinished_one(inbox: Inbox) -> None:
    inbox.evaluate(evaluation(2, "first"))
    old = lease_out(inbox, capacity=2)
    inbox.evaluate(evaluation(1, "second"))
    assert deliver(inbox, old, rewards=(1.0,)) == ["duplicate"] * 2
    new = inbox.grant()["w"]
    assert new[0].group_id == "run/second/arithmetic/0"
    deliver(inbox, new[:1], rewards=(1.0,))
    assert len(inbox.take_evaluation(1, deadline_seconds=0)) == 1
    assert inbox.evaluation_counts().abandoned == 2
