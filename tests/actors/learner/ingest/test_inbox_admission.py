"""What is refused, stale or teaches nothing is counted by its reason, and its lease is worked on again or dropped."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlserve.actors.learner.ingest.admission import AckStatus
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.records import FinishReason, PolicySpan, Purpose, RolloutGroup, Sampling
from rlserve.rpc import codec
from tests.support.clock import ManualClock
from tests.support.groups import trajectory
from tests.support.intake import answer, counts, deliver, each, ids, lease_out, make_inbox, offer, return_lease, train


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
