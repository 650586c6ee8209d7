"""After a crash or a resume every group counts once, and every lease is granted or kept."""

import sqlite3
from pathlib import Path

import pytest

from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.errors import DeadlineExceeded, StateCorrupt
from tests.support.intake import (
    answer,
    deliver,
    ids,
    lease_out,
    make_inbox,
    offer,
    train,
)


def test_another_mixture_applies_to_new_leases_and_survives_a_restart(path: Path) -> None:
    inbox = make_inbox(path)
    first = lease_out(inbox, capacity=2)
    mixture = (MixtureEntry("words", "train", 1.0),)
    inbox.mix(mixture)
    inbox.join("x", capacity=1)
    second = inbox.grant()["x"]
    assert [lease.environment for lease in first + second] == ["arithmetic", "arithmetic", "words"]
    again = lease_out(make_inbox(path, mixture=mixture), capacity=4)
    assert again[:3] == first + second
    assert [(lease.environment, lease.index) for lease in again[3:]] == [("words", 1)]


def test_after_a_crash_every_lease_that_never_came_back_is_leased_again(path: Path) -> None:
    inbox = make_inbox(path)
    leases = lease_out(inbox)
    deliver(inbox, [leases[0], leases[3]])
    deliver(inbox, leases[5:6], rewards=(0.0, 0.0))
    again = make_inbox(path)
    *old, new = lease_out(again)
    assert old == [*leases[1:3], leases[4], *leases[6:8]]
    assert new.group_id == "run/train/8"
    assert deliver(again, [leases[0]]) == ["duplicate"]


def test_a_worker_that_outlives_the_learner_keeps_what_it_works_on(path: Path) -> None:
    leases = lease_out(make_inbox(path))
    again = make_inbox(path)
    held = {leases[2].group_id: leases[2].nonce, leases[3].group_id: "guessed"}
    assert again.join("w", capacity=8, held=held) == {leases[2].group_id}
    assert leases[2] not in again.grant()["w"]
    assert deliver(again, [leases[2]]) == ["accepted"]


def test_a_resumed_run_trains_on_the_same_batches_again(path: Path) -> None:
    inbox = make_inbox(path)
    batches = []
    for step in range(1, 7):
        leases = lease_out(inbox)
        deliver(inbox, leases, spans=[(max(0, step - 2), 2), (step - 1, 2)])
        batches.append(train(inbox, step, 2))
        if step == 3:
            inbox.queue.checkpointed(3)
    before = inbox.queue.counts()
    again = make_inbox(path, version=3)
    assert again.queue.counts().received == before.received
    assert [train(again, step, 2) for step in range(4, 7)] == batches[3:]
    assert again.queue.counts() == before


def test_groups_of_versions_that_are_yet_to_be_made_again_wait_and_block_no_credit(path: Path) -> None:
    inbox = make_inbox(path)
    leases = lease_out(inbox)
    inbox.queue.published(4)
    deliver(inbox, leases[:1], spans=[(3, 4)])
    deliver(inbox, leases[1:], spans=[(4, 4)])
    again = make_inbox(path, version=3)
    assert ids(again.queue.take(1, deadline_seconds=0)) == [leases[0].group_id]
    with pytest.raises(DeadlineExceeded):
        again.queue.take(1, deadline_seconds=0)
    assert len(lease_out(again)) == 8  # those of version 4 and the one in training are not counted
    again.queue.published(4)
    assert ids(again.queue.take(7, deadline_seconds=0)) == [lease.group_id for lease in leases[1:]]


def test_a_run_may_resume_at_the_checkpoint_before_the_last_but_not_further_back(path: Path) -> None:
    inbox = make_inbox(path)
    for step in range(1, 7):
        deliver(inbox, lease_out(inbox), spans=[(step - 1, 4)])
        train(inbox, step, 2)
        if step % 2 == 0:
            inbox.queue.checkpointed(step)
    with pytest.raises(StateCorrupt, match="resume from step 4"):
        make_inbox(path, version=2)
    make_inbox(path, version=4)


def test_a_stored_group_that_cannot_be_read_is_named(path: Path) -> None:
    inbox = make_inbox(path)
    lease = lease_out(inbox)[0]
    offer(inbox, answer(lease))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE payloads SET payload = x'ffff'")
    with pytest.raises(StateCorrupt, match=lease.group_id):
        make_inbox(path)
