"""What is said of groups that do not train: who, why, how often; and when a run is hopeless."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.troubles import MAX_CAUSES, WARNINGS_OF_A_KIND, Causes, plain
from rlserve.errors import DeadlineExceeded, PluginFailed
from rlserve.records import Failure, FailureKind, Verdict
from rlserve.records.lease import Lease, LeaseProgress
from tests.support.clock import ManualClock
from tests.support.groups import NO_VERDICT
from tests.support.intake import answer, deliver, make_inbox, nonce_of, offer


class Setting:
    """An inbox with its warnings and its clock."""

    def __init__(self, path: Path, **changes: object) -> None:
        self.clock = ManualClock()
        self.warnings: list[str] = []
        self.inbox: Inbox = make_inbox(
            path / "g.sqlite",
            warn=lambda message, **fields: self.warnings.append(message),
            clock=self.clock,
            batch=4,
            **changes,
        )

    def leases(self, worker_id: str = "w") -> list[Lease]:
        self.inbox.join(worker_id, capacity=8)
        return self.inbox.grant().get(worker_id, [])

    def last_words(self, n: int = 4) -> str:
        with pytest.raises(DeadlineExceeded) as caught:
            self.inbox.queue.take(n, deadline_seconds=0)
        return str(caught.value)

    def fail(self, lease: Lease, message: str, kind: FailureKind = FailureKind.INTERNAL) -> None:
        failure = Failure(source="verifier:raises", kind=kind, message=message, retriable=False)
        group = answer(lease, rewards=(None, None))
        trajectories = tuple(replace(t, verdict=Verdict.none(failure)) for t in group.trajectories)
        assert offer(self.inbox, replace(group, trajectories=trajectories)).status == "accepted"


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_the_last_words_name_what_came_and_why_it_was_dropped(setting: Setting) -> None:
    deliver(setting.inbox, setting.leases()[:5], rewards=(0.0, 0.0))
    assert "; 5 received, 5 dropped: 5 zero_variance (all rewards 0); w holds " in setting.last_words()


def test_rewards_that_are_alike_in_each_group_only_are_told_so(setting: Setting) -> None:
    leases = setting.leases()
    deliver(setting.inbox, leases[:1], rewards=(0.25, 0.25))
    deliver(setting.inbox, leases[1:2], rewards=(1.0, 1.0))
    assert "2 zero_variance (alike in each group, from 0.25 to 1)" in setting.last_words()


def test_the_first_failed_verdict_of_each_cause_is_told_once(setting: Setting) -> None:
    first, second, third, *_ = setting.leases()
    setting.fail(first, "ZeroDivisionError: division by zero (rlserve_bad.py:4)")
    setting.fail(second, "ZeroDivisionError: division by zero (rlserve_bad.py:4)")
    setting.fail(third, "KeyError: 'answer' (rlserve_bad.py:9)")
    assert setting.warnings == [
        f"no verdict from verifier 'raises': {what}; such samples have no reward and teach nothing"
        for what in (
            "ZeroDivisionError: division by zero (rlserve_bad.py:4)",
            "KeyError: 'answer' (rlserve_bad.py:9)",
        )
    ]
    assert (
        "3 received, 3 dropped: 3 no_verdict (4 times verifier 'raises': ZeroDivisionError: division by zero "
        "(rlserve_bad.py:4), 2 times verifier 'raises': KeyError: 'answer' (rlserve_bad.py:9))" in setting.last_words()
    )


def test_a_run_whose_first_whole_batch_gets_no_verdict_for_one_defect_ends_at_once(setting: Setting) -> None:
    for lease in setting.leases()[:4]:
        setting.fail(lease, "ZeroDivisionError: division by zero (rlserve_bad.py:4)")
    expected = r"verifier 'raises': ZeroDivisionError.*rlserve_bad.py:4.*all 8 verdicts of the first 4 groups"
    with pytest.raises(PluginFailed, match=expected):
        setting.inbox.queue.take(4, deadline_seconds=100)
    with pytest.raises(PluginFailed, match=expected):
        setting.inbox.take_evaluation(1, deadline_seconds=100)


@pytest.mark.parametrize("kind", [FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.RESOURCE])
def test_what_waiting_may_mend_ends_no_run(setting: Setting, kind: FailureKind) -> None:
    for lease in setting.leases():
        setting.fail(lease, "no verifier that serves 'raises'", kind)
    assert "8 no_verdict (verifier 'raises': no verifier that serves 'raises')" in setting.last_words()


def test_one_verdict_that_was_reached_and_the_run_goes_on(setting: Setting) -> None:
    good, *bad = setting.leases()
    deliver(setting.inbox, [good])
    for lease in bad:
        setting.fail(lease, "ZeroDivisionError")
    setting.last_words()


def test_two_defects_end_no_run_at_once(setting: Setting) -> None:
    for number, lease in enumerate(setting.leases()):
        setting.fail(lease, ("ZeroDivisionError", "KeyError")[number % 2])
    setting.last_words()


def test_a_worker_that_only_returns_leases_is_named_with_its_reasons(setting: Setting) -> None:
    for lease in setting.leases("rollout-0"):
        nonce = nonce_of(setting.inbox, lease.group_id, "rollout-0")
        setting.inbox.return_lease(
            lease.group_id, worker_id="rollout-0", nonce=nonce, reason="Unavailable: 'x' at port 7"
        )
    first, second = setting.warnings
    assert first.startswith("rollout-0 returned the lease of 'arithmetic': Unavailable: 'x' at port 7;")
    assert "rollout-0 finishes nothing: it returned 8 leases in a row, the last for: Unavailable" in second
    assert "8 leases came back unfinished (rollout-0: Unavailable: 'x' at port 7)" in setting.last_words()


def test_rejections_are_named_by_sender_and_reason(setting: Setting) -> None:
    lease = setting.leases()[0]
    group = answer(lease)
    offer(setting.inbox, replace(group, task=replace(group.task, index=7)))
    assert setting.warnings[0].startswith("rejected a group of w: wrong_task: task.index: is 7, but the lease is for 0")
    assert "1 rejected (w: wrong_task: task.index: is 7" in setting.last_words()


def test_what_is_counted_is_what_came_since_the_last_batch(setting: Setting) -> None:
    leases = setting.leases()
    deliver(setting.inbox, leases[:2], rewards=(0.0, 0.0))
    deliver(setting.inbox, leases[2:6])
    setting.inbox.queue.take(4, deadline_seconds=0)
    assert "received" not in setting.last_words()


def test_tokens_and_groups_to_train_on_are_progress_and_useless_ones_are_not(setting: Setting) -> None:
    leases = setting.leases()

    def tokens(count: int) -> None:
        lease = leases[-1]
        report = LeaseProgress(group_id=lease.group_id, nonce=lease.nonce, tokens=count)
        setting.inbox.progress("w", [report])

    setting.clock.advance(50)
    assert setting.inbox.seconds_without_progress() == 50
    tokens(1)
    assert setting.inbox.seconds_without_progress() == 0
    setting.clock.advance(5)
    deliver(setting.inbox, leases[:4], rewards=(0.0, 0.0))
    tokens(1)
    assert setting.inbox.seconds_without_progress() == 5
    deliver(setting.inbox, leases[4:5])
    assert setting.inbox.seconds_without_progress() == 0


def test_the_last_words_say_where_workers_stand(setting: Setting) -> None:
    [lease, *_] = setting.leases("rollout-0")
    report = LeaseProgress(group_id=lease.group_id, nonce=lease.nonce, steps=1, stage="teachers")
    setting.inbox.progress("rollout-0", [report])
    setting.clock.advance(9.2)
    assert setting.last_words().endswith(
        "rollout-0 holds 8 leases, the oldest for 9.2 s at teachers, none moved for 9 s"
    )


def test_texts_from_outside_are_one_bounded_line() -> None:
    assert plain("a\n07:00 learner ERROR forged \x1b[2J\u202e") == "a\\n07:00 learner ERROR forged \\x1b[2J\\u202e"
    assert len(plain("x" * 10_000)) == 303


def test_causes_are_bounded_and_numbers_make_no_other() -> None:
    causes = Causes()
    assert causes.add("port 7 is taken") and not causes.add("port 8 is taken")
    assert str(causes) == "port 7 is taken"
    told = sum(causes.add(f"cause {'x' * n}") for n in range(1000))
    assert told == WARNINGS_OF_A_KIND - 1
    assert causes.total == 1002
    assert len(causes._texts) == MAX_CAUSES
    assert str(causes).startswith("969 times other causes, 2 times port 7 is taken")


def test_a_verifier_that_was_too_slow_is_told_as_it_says(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    deliver(setting.inbox, setting.leases()[:1], rewards=(None, 1.0))
    assert NO_VERDICT.failure is not None
    assert setting.warnings == ["no verdict from verifier 'exact': slow; such samples have no reward and teach nothing"]
