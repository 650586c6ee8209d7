"""Leases, by hand-made histories and by any history."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rlserve.actors.learner.leases.lease_state import Release
from rlserve.actors.learner.leases.lease_table import LeaseTable
from rlserve.actors.learner.leases.nonces import Nonces
from rlserve.records import Purpose
from rlserve.records.lease import REPORT_SECONDS, Lease, LeaseProgress

GRACE, LIMIT = 2.0, 10.0
PATIENCE = LIMIT + GRACE + 2 * REPORT_SECONDS
"""After so long a lease that did not move is taken back."""
NONCES = Nonces(bytes(32))


def lease(group_id: str, purpose: Purpose = Purpose.TRAIN) -> Lease:
    return Lease(
        group_id=group_id,
        environment="arithmetic",
        split="train",
        index=0,
        seed=1,
        num_samples=2,
        purpose=purpose,
        limit_seconds=LIMIT,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Draws ``t0``, ``t1``..."""

    nonces = NONCES
    open_leases: Sequence[Lease] = ()

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.saved = 0
        """Draws that a later process would know."""

    def draw(self) -> Lease:
        self.drawn.append(f"t{len(self.drawn)}")
        return lease(self.drawn[-1])

    def save(self) -> None:
        self.saved = len(self.drawn)

    def complete(self, group_id: str) -> None:
        pass


class Table(LeaseTable):
    """Has a source to look at and a clock to turn."""

    def __init__(self, max_outstanding: int, max_attempts: int = 3) -> None:
        self.clock = Clock()
        self.source = Source()
        self.drawn = self.source.drawn
        super().__init__(
            source=self.source,
            max_outstanding=max_outstanding,
            clock=self.clock,
            grace_seconds=GRACE,
            max_attempts=max_attempts,
        )

    def rejoin(self, worker: str, *, capacity: int, held: Iterable[str]) -> frozenset[str]:
        """Join with proofs of what is named."""
        return self.join(worker, capacity=capacity, held={name: NONCES.make(name, worker) for name in held})

    def returns(self, group_id: str, worker: str, *, failed: bool = True) -> Release | None:
        """The worker gives back what it believes to hold."""
        entry = self._entries.get(group_id)
        nonce = entry.nonce if entry is not None and entry.holder == worker else NONCES.make(group_id, worker)
        return self.return_lease(group_id, worker, nonce, failed=failed)

    def reports(self, group_id: str, worker: str, **how_far: Any) -> bool:
        """The worker says how far it is."""
        return self.progress(worker, LeaseProgress(group_id=group_id, nonce=self._entries[group_id].nonce, **how_far))

    def granted(self, queued: int = 0) -> dict[str, list[str]]:
        grants = self.grant(queued=queued)
        return {worker: [lease.group_id for lease in leases] for worker, leases in grants.items()}


def test_leases_are_bounded_by_what_is_out_and_what_is_queued() -> None:
    table = Table(max_outstanding=5)
    table.join("a", capacity=10)
    assert table.granted(queued=2) == {"a": ["t0", "t1", "t2"]}
    assert table.granted(queued=2) == {}
    table.complete("t1")
    assert table.granted(queued=3) == {}
    assert table.granted(queued=2) == {"a": ["t3"]}


def test_a_worker_holds_no_more_than_its_capacity() -> None:
    table = Table(max_outstanding=50)
    table.join("a", capacity=3)
    assert table.granted() == {"a": ["t0", "t1", "t2"]}
    assert table.granted() == {}


def test_scarce_leases_go_to_the_worker_that_holds_least() -> None:
    table = Table(max_outstanding=8)
    table.join("early", capacity=100)
    assert len(table.granted()["early"]) == 8
    table.join("late", capacity=100)
    for done in range(4):
        table.complete(f"t{done}")
        assert list(table.granted()) == ["late"]
    assert [worker.held for worker in table.workers()] == [4, 4]


def test_a_worker_that_is_gone_for_longer_than_the_grace_loses_its_leases_to_another() -> None:
    table = Table(max_outstanding=4)
    table.join("a", capacity=2)
    assert table.granted() == {"a": ["t0", "t1"]}
    table.join("b", capacity=4)
    assert table.granted() == {"b": ["t2", "t3"]}
    table.leave("a")
    table.clock.now += GRACE - 0.1
    assert table.expire() == []
    assert table.granted() == {}
    table.clock.now += 0.1
    assert {release.lease.group_id for release in table.expire()} == {"t0", "t1"}
    assert table.granted() == {"b": ["t0", "t1"]}


def test_a_worker_that_comes_back_within_the_grace_keeps_what_it_names() -> None:
    table = Table(max_outstanding=3)
    table.join("a", capacity=3)
    table.granted()
    table.leave("a")
    assert table.rejoin("a", capacity=3, held=["t0", "t2", "unheard-of"]) == {"t0", "t2"}
    table.clock.now += GRACE
    assert table.expire() == []
    assert table.granted() == {"a": ["t1"]}  # lost on the way: sent again


def test_a_worker_that_restarts_empty_gets_its_leases_again() -> None:
    table = Table(max_outstanding=2)
    table.join("a", capacity=2)
    first = table.grant(queued=0)
    table.join("a", capacity=2)
    assert table.grant(queued=0) == first


def test_a_lease_that_does_not_move_goes_to_another() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    table.granted()
    table.join("b", capacity=1)
    table.clock.now += PATIENCE
    assert [release.worker_id for release in table.expire()] == ["a"]
    assert table.granted() == {"b": ["t0"]}
    assert table.complete("t0")
    assert not table.complete("t0")


def test_a_lease_is_renewed_while_tokens_or_steps_come_and_by_nothing_else() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    table.granted()
    for tokens in range(1, 50):
        table.clock.now += LIMIT
        assert table.reports("t0", "a", tokens=tokens, stage="engine")
        assert table.expire() == []
    table.clock.now += LIMIT
    assert table.reports("t0", "a", tokens=49, steps=2, stage="verifier 'slow'")
    table.clock.now += PATIENCE - 0.1
    assert not table.reports("t0", "a", tokens=49, steps=2, stage="verifier 'slow'")
    assert not table.reports("t0", "a", tokens=48, steps=1)
    assert table.expire() == []
    table.clock.now += 0.1
    table.reports("t0", "a", tokens=49, steps=2, stage="verifier 'slow'")
    [release] = table.expire()
    assert release.stage == "verifier 'slow'"


def test_only_the_grant_that_holds_renews() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    [lease] = table.grant(queued=0)["a"]
    other = NONCES.make("t0", "a")
    for worker, nonce in (("a", other), ("b", lease.nonce), ("a", "")):
        assert not table.progress(worker, LeaseProgress(group_id="t0", nonce=nonce, tokens=9))
        assert table.return_lease("t0", worker, nonce) is None
    assert table.progress("a", LeaseProgress(group_id="t0", nonce=lease.nonce, tokens=1))


def test_time_in_which_nobody_could_be_heard_costs_no_lease() -> None:
    table = Table(max_outstanding=2)
    table.join("a", capacity=1)
    table.join("b", capacity=1)
    table.granted()
    table.leave("b")
    table.clock.now += 100
    table.prolong(100)
    assert table.expire() == []
    table.clock.now += GRACE
    assert [release.worker_id for release in table.expire()] == ["b"]


def test_a_worker_keeps_only_what_it_proves() -> None:
    table = Table(max_outstanding=2)
    table.join("honest", capacity=2)
    leases = table.grant(queued=0)["honest"]
    stolen = {lease.group_id: lease.nonce for lease in leases}
    assert table.join("thief", capacity=2, held=stolen) == frozenset()
    guessed = {"t0": NONCES.make("t0", "honest")[:-1] + "x", "t1": ""}
    assert table.join("honest", capacity=2, held=guessed) == frozenset()
    assert table.join("honest", capacity=2, held=stolen) == {"t0", "t1"}


def test_each_grant_has_a_nonce_of_its_own() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    [first] = table.grant(queued=0)["a"]
    table.returns("t0", "a")
    table.clock.now += 60
    [second] = table.grant(queued=0)["a"]
    assert first == second and first.nonce != second.nonce
    assert NONCES.proves(first.nonce, "t0", "a")  # a late result is welcome
    assert table.return_lease("t0", "a", first.nonce) is None  # but takes nothing away


def test_leases_in_a_row_that_a_worker_did_not_finish_are_counted() -> None:
    table = Table(max_outstanding=1, max_attempts=9)
    table.join("a", capacity=1)
    for number in range(1, 4):
        table.granted()
        table.returns("t0", "a")
        assert table.workers()[0].returned_in_row == number
        table.clock.now += 60
    table.finished("a")
    assert table.workers()[0].returned_in_row == 0


def test_an_expired_lease_goes_back_to_its_worker_only_when_there_is_no_other() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    table.granted()
    table.clock.now += PATIENCE
    table.expire()
    assert table.granted() == {"a": ["t0"]}
    table.join("b", capacity=1)
    table.clock.now += PATIENCE
    table.expire()
    assert table.granted() == {"b": ["t0"]}


def test_a_returned_lease_waits_for_another_worker_even_if_that_is_busy() -> None:
    table = Table(max_outstanding=3)
    table.join("a", capacity=2)
    table.granted()
    table.join("b", capacity=1)
    assert table.granted() == {"b": ["t2"]}
    table.returns("t0", "a")
    table.clock.now += 60
    assert table.granted() == {}
    table.complete("t2")
    assert table.granted(queued=1) == {"b": ["t0"]}


def test_a_lease_that_keeps_failing_pauses_longer_each_time_and_is_abandoned_at_last() -> None:
    table = Table(max_outstanding=1, max_attempts=4)
    table.join("a", capacity=1)
    pauses = []
    for _ in range(3):
        assert table.granted() == {"a": ["t0"]}
        released = table.returns("t0", "a")
        assert released is not None and not released.abandoned
        start = table.clock.now
        while not table.grant(queued=0):
            table.clock.now += 0.05
        pauses.append(round(table.clock.now - start, 2))
        table.returns("t0", "a", failed=False)
        table.clock.now += 60
    assert pauses == sorted(pauses) and pauses[0] > 0 and pauses[-1] > pauses[0]
    table.granted()
    released = table.returns("t0", "a")
    assert released is not None and released.abandoned
    assert table.granted() == {"a": ["t1"]}
    assert table.drawn == ["t0", "t1"]


def test_only_the_holder_can_give_a_lease_back() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=1)
    table.join("b", capacity=1)
    assert table.granted() == {"a": ["t0"]}
    assert table.returns("t0", "b") is None
    assert table.returns("unheard-of", "a") is None
    assert table.outstanding == 1 and table.workers()[0].held == 1


def test_leases_of_an_evaluation_go_first_and_outside_the_bound() -> None:
    table = Table(max_outstanding=1)
    table.join("a", capacity=10)
    assert table.granted() == {"a": ["t0"]}
    table.returns("t0", "a")
    table.clock.now += 60
    table.add([lease("e0", Purpose.EVALUATE), lease("e1", Purpose.EVALUATE)])
    assert table.granted(queued=99) == {"a": ["e0", "e1", "t0"]}
    assert table.outstanding == 1


def test_leases_left_over_from_an_earlier_process_go_before_new_ones_and_can_be_claimed() -> None:
    table = Table(max_outstanding=4)
    table.add([lease("x1"), lease("x2"), lease("x3")])
    assert table.outstanding == 3
    assert table.rejoin("a", capacity=2, held=["x2"]) == {"x2"}
    assert table.granted() == {"a": ["x1"]}
    table.join("b", capacity=9)
    assert table.granted() == {"b": ["x3", "t0"]}


def test_a_worker_whose_stream_is_clogged_gets_nothing() -> None:
    table = Table(max_outstanding=2)
    table.join("a", capacity=2)
    table.join("b", capacity=2)
    assert list(table.grant(queued=0, ready={"b"})) == ["b"]


def test_workers_are_described_for_people() -> None:
    table = Table(max_outstanding=2)
    table.join("a", capacity=2)
    table.granted()
    table.clock.now += 7
    table.join("b", capacity=5)
    table.leave("a")
    first, second = table.workers()
    assert (first.worker_id, first.connected, first.held, first.oldest_seconds) == ("a", False, 2, 7.0)
    assert (second.worker_id, second.connected, second.held, second.oldest_seconds) == ("b", True, 0, 0.0)


WORKERS = st.sampled_from(["a", "b", "c"])
BOUND = 6


class LeaseMachine(RuleBasedStateMachine):
    """Workers join, die, forget, return and deliver in any order; the test believes only the answers that it got."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(max_outstanding=BOUND, max_attempts=2)
        self.queued = 0
        self.live: dict[str, set[str]] = {}  # worker -> leases that it believes to hold
        self.evaluations: list[str] = []
        self.settled: set[str] = set()

    def unsettled(self) -> set[str]:
        return {*self.table.drawn, *self.evaluations} - self.settled

    def revoke(self, releases: Iterable) -> None:
        for release in releases:
            self.live.get(release.worker_id, set()).discard(release.lease.group_id)
            if release.abandoned:
                self.settled.add(release.lease.group_id)

    @rule(worker=WORKERS, capacity=st.integers(1, 5), data=st.data())
    def join(self, worker: str, capacity: int, data: st.DataObject) -> None:
        believed = data.draw(st.sets(st.sampled_from(sorted(self.unsettled()) or ["none"])))
        self.live[worker] = set(self.table.rejoin(worker, capacity=capacity, held=believed))
        assert self.live[worker] <= believed

    @rule(worker=WORKERS)
    def leave(self, worker: str) -> None:
        self.table.leave(worker)
        self.live.pop(worker, None)

    @rule()
    def grant(self) -> None:
        for worker, leases in self.table.grant(queued=self.queued).items():
            self.live[worker].update(lease.group_id for lease in leases)

    @rule(worker=WORKERS, data=st.data())
    def deliver(self, worker: str, data: st.DataObject) -> None:
        if not self.live.get(worker):
            return
        group_id = data.draw(st.sampled_from(sorted(self.live[worker])))
        assert self.table.complete(group_id) == (group_id not in self.settled)
        self.settled.add(group_id)
        self.live[worker].discard(group_id)
        self.queued += group_id in self.table.drawn

    @rule(worker=WORKERS, data=st.data(), failed=st.booleans())
    def return_lease(self, worker: str, data: st.DataObject, failed: bool) -> None:
        if not self.live.get(worker):
            return
        group_id = data.draw(st.sampled_from(sorted(self.live[worker])))
        release = self.table.returns(group_id, worker, failed=failed)
        assert release is not None
        self.revoke([release])

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.table.clock.now += seconds
        self.revoke(self.table.expire())

    @rule(number=st.integers(1, 3))
    def train(self, number: int) -> None:
        self.queued = max(0, self.queued - number)

    @rule(number=st.integers(1, 3))
    def evaluate(self, number: int) -> None:
        ids = [f"e{len(self.evaluations) + n}" for n in range(number)]
        self.evaluations += ids
        self.table.add([lease(group_id, Purpose.EVALUATE) for group_id in ids])

    @invariant()
    def no_lease_is_held_by_two_live_workers(self) -> None:
        held = [group_id for leases in self.live.values() for group_id in leases]
        assert len(held) == len(set(held))
        assert set(held) <= self.unsettled()

    @invariant()
    def the_bound_holds(self) -> None:
        outstanding = len(set(self.table.drawn) - self.settled)
        assert outstanding == self.table.outstanding
        assert outstanding + self.queued <= BOUND

    @invariant()
    def the_book_says_what_workers_believe(self) -> None:
        said = {worker.worker_id: worker.held for worker in self.table.workers() if worker.connected}
        assert said == {worker: len(leases) for worker, leases in self.live.items()}

    def teardown(self) -> None:
        """None is lost: when all others are gone, one new worker gets every lease that is not settled."""
        for worker in list(self.live):
            self.table.leave(worker)
        self.table.clock.now += 1000
        self.live.clear()
        self.revoke(self.table.expire())
        self.table.join("last", capacity=10**6)
        granted = self.table.grant(queued=BOUND).get("last", [])
        assert {lease.group_id for lease in granted} == self.unsettled()


@pytest.mark.parametrize("machine", [LeaseMachine])
def test_no_history_of_workers_loses_or_doubles_a_lease(machine: type[LeaseMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_after_the_last_step_only_evaluation_is_leased() -> None:
    table = Table(max_outstanding=9)
    table.join("w", capacity=8)
    held = table.grant(queued=0)["w"]
    table.returns(held[0].group_id, "w", failed=False)
    table.stop_drawing()
    assert table.grant(queued=0) == {}
    table.add([lease("eval/0", Purpose.EVALUATE)])
    assert [granted.group_id for granted in table.grant(queued=0)["w"]] == ["eval/0"]


def test_an_evaluation_is_leased_to_workers_of_the_newest_version_alone() -> None:
    table = Table(max_outstanding=9)
    for worker in ("mute", "old", "new"):
        table.join(worker, capacity=8)
    table.add([lease(f"eval/{number}", Purpose.EVALUATE) for number in range(4)])
    granted = table.grant(queued=9, ready={"old", "new"}, current={"new"})
    assert {worker: [given.group_id for given in leases] for worker, leases in granted.items()} == {
        "new": [f"eval/{number}" for number in range(4)]
    }
    assert set(table.grant(queued=0, ready={"old", "new"}, current={"new"})) == {"old", "new"}


def test_what_failed_goes_back_to_the_only_worker_that_is_able() -> None:
    """Another that is connected and never confirms must not be waited for."""
    table = Table(max_outstanding=9)
    table.join("mute", capacity=8)
    table.join("new", capacity=1)
    table.add([lease("eval/0", Purpose.EVALUATE)])
    assert "new" in table.grant(queued=9, ready={"new"}, current={"new"})
    table.returns("eval/0", "new")
    table.clock.now += 60
    [again] = table.grant(queued=9, ready={"new"}, current={"new"})["new"]
    assert again.group_id == "eval/0"
