"""Every group exactly once, or accounted for."""

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors.learner.ingest.admission import AckStatus
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.errors import DeadlineExceeded, NotReady, StateCorrupt
from rlserve.records import FinishReason, PolicySpan, Purpose, RolloutGroup, Sampling, Trajectory
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from tests.support.clock import ManualClock
from tests.support.groups import trajectory
from tests.support.intake import answer, counts, deliver, lease_out, make_inbox, nonce_of, offer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "groups.sqlite"


@pytest.fixture
def inbox(path: Path) -> Inbox:
    return make_inbox(path)


def ids(groups: list[RolloutGroup]) -> list[str]:
    return [group.group_id for group in groups]


def each(group: RolloutGroup, **changes: Any) -> tuple[Trajectory, ...]:
    return tuple(replace(trajectory, **changes) for trajectory in group.trajectories)


def return_lease(inbox: Inbox, lease: Lease, reason: str, worker_id: str = "w") -> None:
    nonce = nonce_of(inbox, lease.group_id, worker_id)
    inbox.return_lease(lease.group_id, worker_id=worker_id, nonce=nonce, reason=reason)


def train(inbox: Inbox, step: int, n: int) -> list[str]:
    """One step of a learner."""
    taken = ids(inbox.queue.take(n, deadline_seconds=1))
    inbox.queue.commit(step, taken)
    inbox.queue.published(step)
    return taken


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


def test_a_second_copy_is_a_duplicate_whatever_became_of_the_first(inbox: Inbox) -> None:
    queued, trained, useless = leases = lease_out(inbox)[:3]
    deliver(inbox, [trained])
    train(inbox, 3, 1)
    deliver(inbox, [queued], spans=[(3, 4)])
    deliver(inbox, [useless], spans=[(3, 4)], rewards=(1.0, 1.0))
    before = inbox.queue.counts()
    assert before == counts(3, consumed=1, queued=1, zero_variance=1)
    assert deliver(inbox, leases) == ["duplicate"] * 3
    assert inbox.queue.counts() == before
    assert inbox.queue.rejections() == {}


@pytest.mark.parametrize(
    ("spoil", "reason", "field"),
    [
        (lambda g: replace(g, run_id="other"), "wrong_run", "run_id"),
        (lambda g: replace(g, tokenizer_fingerprint="?"), "wrong_tokenizer", "tokenizer_fingerprint"),
        (lambda g: replace(g, group_id="run/train/999"), "unknown_lease", "group_id"),
        (lambda g: replace(g, task=replace(g.task, index=g.task.index + 1)), "wrong_task", "task.index"),
        (lambda g: replace(g, trajectories=tuple(replace(t, seed=5) for t in g.trajectories)), "wrong_seed", "seed"),
        (lambda g: replace(g, trajectories=each(g, temperature=1e-6)), "wrong_temperature", "temperature"),
        (
            lambda g: replace(
                g,
                task=replace(g.task, sampling=Sampling(temperature=1e-6)),
                trajectories=each(g, temperature=1e-6),
            ),
            "wrong_temperature",
            "task.sampling.temperature",
        ),
        (lambda g: replace(g, trajectories=each(g, finish_reason=FinishReason.GIVEN)), "wrong_task", "finish_reason"),
        (
            lambda g: replace(g, trajectories=(g.trajectories[0], replace(g.trajectories[1], sample_index=7))),
            "wrong_num_samples",
            "sample_index",
        ),
        (lambda g: replace(g, task=replace(g.task, environment="x")), "unknown_environment", "task.environment"),
        (lambda g: replace(g, task=replace(g.task, split="test")), "wrong_task", "task.split"),
        (lambda g: replace(g, purpose=Purpose.EVALUATE), "wrong_task", "task.split"),
        (lambda g: replace(g, trajectories=g.trajectories[:1]), "wrong_num_samples", "trajectories"),
        (
            lambda g: replace(g, trajectories=tuple(replace(t, top_p=0.9) for t in g.trajectories)),
            "truncated_sampling",
            "trajectories.top_p",
        ),
        (
            lambda g: replace(g, trajectories=each(g, policy_spans=(PolicySpan(0, 2), PolicySpan(1, 2)))),
            "unknown_version",
            "policy_spans",
        ),
    ],
)
def test_what_is_not_believed_is_counted_by_reason_and_the_lease_is_worked_on_again(
    inbox: Inbox, spoil: Callable[[RolloutGroup], RolloutGroup], reason: str, field: str
) -> None:
    lease = lease_out(inbox, capacity=1)[0]
    decision = offer(inbox, spoil(answer(lease)))
    assert (decision.status, decision.reason) == (AckStatus.REJECTED, reason)
    assert field in decision.message.split(": ")[0] and "; " in decision.message
    assert inbox.queue.rejections() == {reason: 1}
    assert inbox.queue.counts() == counts(0)
    inbox.join("honest", capacity=1)
    time.sleep(0.3)  # the pause after a failure
    granted = inbox.grant()
    if reason == "unknown_lease":  # no fault of the worker that holds it
        assert lease not in granted.get("honest", [])
        assert deliver(inbox, [lease]) == ["accepted"]
    else:
        assert granted["honest"] == [lease]
        assert deliver(inbox, [lease], worker_id="honest") == ["accepted"]
    assert inbox.queue.counts() == counts(1, queued=1)


def test_a_group_that_is_refused_again_and_again_is_dropped_for_the_last_reason(path: Path) -> None:
    now = [0.0]
    inbox = make_inbox(path)
    inbox._leases._clock = lambda: now[0]
    lease = lease_out(inbox, capacity=1)[0]
    message = codec.group_to_proto(answer(lease))
    message.trajectories[0].behavior_logprobs[0] = float("nan")
    spoilt = message.SerializeToString()
    refusals = 0
    while not inbox.queue.counts().received:
        refusals += offer(inbox, answer(lease), payload=spoilt).status is AckStatus.REJECTED
        now[0] += 60
        inbox.grant()
    assert inbox.queue.counts() == counts(1, nan_logprob=1)
    assert inbox.queue.rejections() == {"nan_logprob": refusals}
    assert refusals > 1
    assert deliver(inbox, [lease]) == ["duplicate"]


def test_a_returned_lease_is_given_to_another_worker(inbox: Inbox) -> None:
    lease = lease_out(inbox, capacity=1)[0]
    inbox.join("other", capacity=1)
    return_lease(inbox, lease, "Unavailable: no environment")
    time.sleep(0.3)
    assert inbox.grant()["other"] == [lease]


def test_a_group_older_than_the_bound_on_arrival_is_counted_and_its_lease_is_worked_on_again(inbox: Inbox) -> None:
    leases = lease_out(inbox)
    inbox.queue.published(5)
    assert deliver(inbox, leases[:1], spans=[(2, 1), (5, 3)]) == ["stale"]
    assert deliver(inbox, leases[1:2], spans=[(3, 1), (5, 3)]) == ["accepted"]
    assert inbox.queue.counts() == counts(1, queued=1)
    assert inbox.queue.rejections() == {"stale": 1}
    inbox.join("fresh", capacity=1)
    time.sleep(0.3)
    assert inbox.grant()["fresh"] == leases[:1]
    assert deliver(inbox, leases[:1], spans=[(5, 4)], worker_id="fresh") == ["accepted"]


def test_who_sends_old_versions_wears_out_no_groups(path: Path) -> None:
    clock = ManualClock()
    inbox = make_inbox(path, clock=clock, max_outstanding=4)
    lease_out(inbox, "stale", capacity=4)
    inbox.queue.published(9)
    for _ in range(100):
        for lease in inbox.grant().get("stale", []) or []:
            assert deliver(inbox, [lease], worker_id="stale") == ["stale"]
        clock.advance(0.1)
    assert inbox.queue.counts().received == 0
    assert inbox._source._next == 4


def test_a_group_that_grows_stale_in_the_queue_is_dropped_at_batch_time_and_refilled(inbox: Inbox) -> None:
    leases = lease_out(inbox)
    inbox.queue.published(1)
    deliver(inbox, leases[:2], spans=[(0, 4)])
    deliver(inbox, leases[2:4], spans=[(1, 4)])
    assert inbox.grant() == {}
    inbox.queue.published(3)  # max_lag is 2: version 0 is out
    wakes: list[int] = []
    inbox.on_grantable(lambda: wakes.append(1))
    assert ids(inbox.queue.take(2, deadline_seconds=1)) == [lease.group_id for lease in leases[2:4]]
    assert inbox.queue.counts() == counts(4, queued=2, stale=2)
    assert wakes and len(inbox.grant()["w"]) == 2 + 2  # dropped, and in training


def test_lag_counts_from_the_weights_of_the_next_step_and_leases_wait_for_the_newest_that_is_due(inbox: Inbox) -> None:
    """Version 2 is due while version 1 is still on its way."""
    leases = lease_out(inbox)
    deliver(inbox, leases[:2], spans=[(0, 4)])
    inbox.queue.commit(1, [], publishes=True)
    inbox.queue.commit(2, [], publishes=True)
    inbox.queue.published(1)
    assert inbox.grant() == {} and not inbox.queue.is_open
    inbox.queue.commit(3, [], publishes=True)  # max_lag is 2: version 0 is out
    deliver(inbox, leases[2:3], spans=[(1, 4)])
    assert ids(inbox.queue.take(1, deadline_seconds=1)) == [leases[2].group_id]
    assert inbox.queue.counts() == counts(3, queued=1, stale=2)
    inbox.queue.published(3)
    assert inbox.queue.is_open and inbox.queue.version == 3


def test_what_teaches_nothing_is_dropped_on_arrival_and_frees_its_credit(inbox: Inbox) -> None:
    leases = lease_out(inbox)
    assert len(leases) == 8 and inbox.grant() == {}
    assert deliver(inbox, leases[:1], rewards=(1.0, 1.0)) == ["accepted"]
    assert deliver(inbox, leases[1:2], rewards=(None, None)) == ["accepted"]
    assert deliver(inbox, leases[2:3], rewards=(1.0, 0.0)) == ["accepted"]
    assert inbox.queue.counts() == counts(3, queued=1, zero_variance=1, no_verdict=1)
    assert len(inbox.grant()["w"]) == 2


def test_a_sample_without_tokens_does_not_make_its_group_stale(inbox: Inbox) -> None:
    lease = lease_out(inbox)[0]
    inbox.queue.published(9)
    group = answer(lease, spans=[(9, 4)], rewards=(1.0, 0.0))
    empty = replace(trajectory(0, 0.0, member=1), policy_spans=(), seed=lease.seed + 1)
    decision = offer(inbox, replace(group, trajectories=(group.trajectories[0], empty)))
    assert decision.status is AckStatus.ACCEPTED


def test_a_rule_that_breaks_drops_the_group_and_not_the_stream(path: Path) -> None:
    def broken(group: RolloutGroup) -> str | None:
        raise ZeroDivisionError

    inbox = make_inbox(path, drops=broken)
    assert deliver(inbox, lease_out(inbox)[:1]) == ["accepted"]
    assert inbox.queue.counts() == counts(1, filter_failed=1)


def test_every_received_group_is_shown_once_also_those_that_teach_nothing(path: Path) -> None:
    seen: list[str] = []
    inbox = make_inbox(path, observers=[lambda group: seen.append(group.group_id)])
    leases = lease_out(inbox)
    deliver(inbox, leases[:2])
    deliver(inbox, leases[2:3], rewards=(1.0, 1.0))
    deliver(inbox, leases[:3])
    assert seen == [lease.group_id for lease in leases[:3]]


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
