"""Batches in the order of their leases, waits, and room for the next batch: every group exactly once."""

import threading
from pathlib import Path

import pytest

from rlserve.actors.learner.ingest.admission import AckStatus
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.errors import DeadlineExceeded, NotReady
from rlserve.records.lease import Lease
from tests.support.intake import (
    answer,
    counts,
    deliver,
    ids,
    lease_out,
    make_inbox,
    offer,
    train,
)


def test_a_batch_is_in_the_order_of_its_leases_however_its_groups_arrived(inbox: Inbox) -> None:
    leases = lease_out(inbox, capacity=8)
    for place in (7, 2, 5, 0, 6, 1):
        deliver(inbox, [leases[place]])
    assert ids(inbox.queue.take(4, deadline_seconds=1)) == [leases[place].group_id for place in (0, 2, 5, 7)]
    assert ids(inbox.queue.take(2, deadline_seconds=1)) == [leases[place].group_id for place in (1, 6)]


def test_what_is_put_back_is_taken_again_and_what_is_discarded_never(path: Path, inbox: Inbox) -> None:
    deliver(inbox, lease_out(inbox)[:3])
    first, second, third = ids(inbox.queue.take(3, deadline_seconds=1))
    inbox.queue.drop([second], "not_finite", step=None)
    inbox.queue.put_back([first, third])
    assert ids(inbox.queue.take(2, deadline_seconds=1)) == [first, third]
    again = make_inbox(path)
    assert ids(again.queue.take(2, deadline_seconds=1)) == [first, third]
    assert again.queue.counts() == counts(3, queued=2, not_finite=1)


def test_groups_are_taken_in_order_of_arrival_and_counted_when_trained(inbox: Inbox) -> None:
    first, second, third = lease_out(inbox)[:3]
    assert deliver(inbox, [second, third, first]) == ["accepted"] * 3
    assert inbox.queue.counts() == counts(3, queued=3)
    taken = inbox.queue.take(2, deadline_seconds=1)
    assert ids(taken) == [second.group_id, third.group_id]
    assert inbox.queue.counts() == counts(3, queued=3)
    inbox.queue.commit(1, ids(taken))
    assert inbox.queue.counts() == counts(3, consumed=2, queued=1)


def test_no_lease_goes_out_between_a_step_and_its_weights(inbox: Inbox) -> None:
    """It would be sampled by weights that are old already."""
    deliver(inbox, lease_out(inbox)[:4])
    taken = ids(inbox.queue.take(4, deadline_seconds=1))
    inbox.queue.commit(1, taken, publishes=True)
    assert inbox.grant() == {}
    inbox.queue.published(1)
    assert sum(map(len, inbox.grant().values())) == 4


def test_taken_groups_are_not_handed_out_again_before_they_are_committed(inbox: Inbox) -> None:
    deliver(inbox, lease_out(inbox)[:4])
    assert not set(ids(inbox.queue.take(2, deadline_seconds=1))) & set(ids(inbox.queue.take(2, deadline_seconds=1)))
    with pytest.raises(DeadlineExceeded):
        inbox.queue.take(1, deadline_seconds=0)


def test_take_waits_for_the_last_group(inbox: Inbox) -> None:
    leases = lease_out(inbox)
    deliver(inbox, leases[:1])
    late = threading.Timer(0.1, deliver, (inbox, leases[1:2]))
    late.start()
    assert len(inbox.queue.take(2, deadline_seconds=10)) == 2
    late.join()


def test_a_deadline_names_the_workers_and_what_they_owe(inbox: Inbox) -> None:
    with pytest.raises(DeadlineExceeded, match=r"0 of 2 groups .* no rollout worker is connected"):
        inbox.queue.take(2, deadline_seconds=0)
    deliver(inbox, lease_out(inbox, "rollout-0", capacity=3)[:1], worker_id="rollout-0")
    inbox.join("rollout-1", capacity=1)
    inbox.grant()
    inbox.leave("rollout-1")
    with pytest.raises(DeadlineExceeded, match=r"1 of 2 .*rollout-0 holds 3 leases, the oldest for 0\.\d s; rollout-1"):
        inbox.queue.take(2, deadline_seconds=0.02)
    with pytest.raises(DeadlineExceeded, match=r"rollout-1 \(gone\) holds 1 leases"):
        inbox.queue.take(2, deadline_seconds=0)


def test_closing_ends_a_wait(inbox: Inbox) -> None:
    threading.Timer(0.05, inbox.close, ("asked to stop",)).start()
    with pytest.raises(NotReady, match="asked to stop"):
        inbox.queue.take(1, deadline_seconds=10)


def test_groups_of_a_failed_step_are_accounted_for(inbox: Inbox) -> None:
    deliver(inbox, lease_out(inbox)[:2])
    inbox.queue.drop(ids(inbox.queue.take(2, deadline_seconds=1)), "nonfinite_loss", step=1)
    assert inbox.queue.counts() == counts(2, nonfinite_loss=2)
    assert inbox.grant()["w"]


def test_a_worker_may_have_the_weights_a_moment_before_they_count_as_published(inbox: Inbox) -> None:
    leases = lease_out(inbox)
    deliver(inbox, leases[:1])
    inbox.queue.commit(1, ids(inbox.queue.take(1, deadline_seconds=1)))
    assert deliver(inbox, leases[1:2], spans=[(1, 4)]) == ["accepted"]
    assert deliver(inbox, leases[2:3], spans=[(2, 4)]) == ["rejected"]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_batch_in_training_leaves_room_for_the_next_or_none(path: Path, ahead: bool) -> None:
    inbox = make_inbox(path, max_outstanding=4, leases_ahead=ahead)
    deliver(inbox, lease_out(inbox, capacity=9))
    assert inbox.grant() == {}
    taken = inbox.queue.take(4, deadline_seconds=0)
    during = sum(len(leases) for leases in inbox.grant().values())
    assert during == (4 if ahead else 0)
    inbox.queue.commit(1, [group.group_id for group in taken], publishes=True)
    inbox.queue.published(1)
    assert during + sum(len(leases) for leases in inbox.grant().values()) == 4


def test_groups_that_could_not_be_trained_on_make_room_again(path: Path) -> None:
    inbox = make_inbox(path, max_outstanding=2, leases_ahead=False)
    deliver(inbox, lease_out(inbox, capacity=9))
    taken = inbox.queue.take(2, deadline_seconds=0)
    inbox.queue.drop([group.group_id for group in taken], "untrainable", step=1)
    assert len(inbox.grant()["w"]) == 2


def test_busy_workers_and_a_busy_trainer_lose_and_double_nothing(path: Path) -> None:
    inbox = make_inbox(path, max_outstanding=12)
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(worker_id: str) -> None:
        try:
            held: list[Lease] = []
            while not stop.is_set():
                inbox.join(worker_id, capacity=4, held={lease.group_id: lease.nonce for lease in held})
                held += inbox.grant(ready={worker_id}).get(worker_id, [])
                for number, lease in enumerate(held):
                    rewards = (1.0, float(number % 2))
                    group = answer(lease, spans=[(inbox.queue.version, 4)], rewards=rewards, worker_id=worker_id)
                    for _ in range(1 + number % 2):  # some are sent twice
                        assert offer(inbox, group, nonce=lease.nonce).status is not AckStatus.REJECTED
                held = []
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    trained = [group_id for step in range(1, 31) for group_id in train(inbox, step, 3)]
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(trained) == len(set(trained)) == 90
    done = inbox.queue.counts()
    assert done.consumed == 90 and done.queued <= 12
    # Every lease that was ever drawn is in exactly one place.
    cursor = inbox._source._next
    assert cursor == done.received + inbox._leases.outstanding
