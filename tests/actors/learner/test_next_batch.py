"""The next batch is made beside the step: the same tensors, and no group is taken for it."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.next_batch import NextBatch
from rlserve.algorithms import registry
from rlserve.batching.collate import BatchLayout, OptimizerBatch, collate
from rlserve.config.algorithms.policy_gradient import ReinforceConfig
from rlserve.records import RolloutGroup
from tests.support.intake import answer, counts, deliver, ids, lease_out, make_inbox, offer

LAYOUT = BatchLayout(tokens_per_micro_batch=64, max_new_tokens=8)
WAIT = 60
"""Seconds, on a busy machine; none of it passes on a quick one."""


class Learner:
    """The parts of a training loop that meet here."""

    def __init__(self, **algorithm: Any) -> None:
        self.algorithm: Any = registry.create(ReinforceConfig(**algorithm))
        self.made: list[tuple[list[str], int]] = []
        self.threads: list[str] = []
        self.was_made = threading.Event()
        self.next = NextBatch(self.build, self)

    def build(self, groups: Sequence[RolloutGroup], version: int) -> list[OptimizerBatch]:
        try:
            batch = collate(groups, self.algorithm, LAYOUT, version)
            self.made.append((ids(groups), version))
            self.threads.append(threading.current_thread().name)
            return [batch]
        finally:
            self.was_made.set()

    def algorithm_state(self) -> Mapping[str, float]:
        return dict(self.algorithm.state())

    def restore_algorithm(self, state: Mapping[str, float]) -> None:
        self.algorithm.restore(state)

    @contextmanager
    def step(self, inbox: Inbox, size: int, version: int) -> Any:
        """A step that lasts until the next batch is made."""
        self.was_made.clear()
        with self.next.building(lambda: inbox.queue.foreseen(size), version=version):
            yield
            assert self.was_made.wait(WAIT)


def tensors(batches: Sequence[OptimizerBatch]) -> list[torch.Tensor]:
    micro = [m for batch in batches for share in batch.micro_batches for m in share]
    return [m.token_ids for m in micro] + [m.lag for m in micro] + [m.advantages for m in micro]


def assert_same(left: Sequence[OptimizerBatch], right: Sequence[OptimizerBatch]) -> None:
    assert str(left[0].denominator) == str(right[0].denominator) and left[0].summary == right[0].summary
    assert all(a.equal(b) for a, b in zip(tensors(left), tensors(right), strict=True))


def test_the_batch_made_beside_a_step_is_the_one_that_the_next_step_takes(path: Path, inbox: Inbox) -> None:
    learner = Learner()
    deliver(inbox, lease_out(inbox)[:6])
    first = inbox.queue.take(3, deadline_seconds=0)
    with learner.step(inbox, 3, 1):
        pass
    # Nothing was taken: a learner that dies here finds all six.
    assert ids(make_inbox(path).queue.take(6, deadline_seconds=0)) == ids(first) + learner.made[0][0]
    inbox.queue.commit(1, ids(first), publishes=True)
    inbox.queue.published(1)
    groups = inbox.queue.take(3, deadline_seconds=0)
    batches = learner.next.batches(groups, 1)
    assert learner.made == [(ids(groups), 1)] and learner.threads[0].startswith("next-batch")
    assert_same(batches, Learner().build(groups, 1))
    assert {int(lag) for m in batches[0].micro_batches[0] for lag in m.lag.unique()} <= {0, 1}
    assert inbox.queue.counts() == counts(6, consumed=3, queued=3)
    learner.next.close()


def test_groups_that_come_during_the_step_are_in_time(inbox: Inbox) -> None:
    learner = Learner()
    leases = lease_out(inbox)
    deliver(inbox, leases[:3])
    first = inbox.queue.take(2, deadline_seconds=0)
    with learner.step(inbox, 2, 1):
        assert not learner.made
        deliver(inbox, leases[3:4])
    inbox.queue.commit(1, ids(first))
    assert learner.next.batches(inbox.queue.take(2, deadline_seconds=0), 1)
    assert len(learner.made) == 1
    with learner.next.building(lambda: inbox.queue.foreseen(2), version=2):
        pass  # none came: the thread gives up with the step
    learner.next.settle()
    learner.next.close()


@pytest.mark.parametrize("change", ["version", "groups", "settings"])
def test_what_was_foreseen_in_vain_is_made_again(inbox: Inbox, change: str) -> None:
    learner = Learner()
    deliver(inbox, lease_out(inbox)[:4])
    with learner.step(inbox, 2, 1):
        pass
    if change == "settings":
        learner.next.forget()
    taken = inbox.queue.take(3 if change == "groups" else 2, deadline_seconds=0)
    version = 0 if change == "version" else 1
    assert_same(learner.next.batches(taken, version), Learner().build(taken, version))
    assert len(learner.made) == 2
    learner.next.close()


def test_a_group_that_will_be_too_old_is_not_foreseen(inbox: Inbox) -> None:
    """max_lag is 2: what version 0 sampled is taken by the step that makes version 3, and by none after it."""
    leases = lease_out(inbox)
    deliver(inbox, leases[:2])
    inbox.queue.published(2)
    assert inbox.queue.foreseen(2) == []
    assert len(inbox.queue.take(2, deadline_seconds=0)) == 2


def test_what_an_algorithm_remembers_is_put_back_and_nothing_more_is_made_ahead(inbox: Inbox) -> None:
    learner = Learner(advantage="running_baseline", zero_variance="keep")
    for lease in lease_out(inbox)[:4]:
        offer(inbox, answer(lease, rewards=(1.0, 0.0)))
    with learner.step(inbox, 2, 1):
        pass
    learner.next.settle()
    assert learner.algorithm_state() == {}
    groups = inbox.queue.take(2, deadline_seconds=0)
    batches = learner.next.batches(groups, 1)
    assert_same(batches, Learner(advantage="running_baseline", zero_variance="keep").build(groups, 1))
    made, remembered = len(learner.made), learner.algorithm_state()
    assert made == 2 and remembered
    with learner.next.building(lambda: inbox.queue.foreseen(2), version=2):
        pass
    learner.next.settle()
    assert len(learner.made) == made and learner.algorithm_state() == remembered
    learner.next.close()


def test_an_error_of_the_algorithm_is_raised_where_the_batch_is_used(inbox: Inbox) -> None:
    learner = Learner()

    def broken(outcomes: Any) -> Any:
        raise ZeroDivisionError("in prepare")

    learner.algorithm.prepare = broken
    deliver(inbox, lease_out(inbox)[:2])
    with learner.step(inbox, 2, 1):
        pass
    learner.next.settle()
    with pytest.raises(ZeroDivisionError, match="in prepare"):
        learner.next.batches(inbox.queue.take(2, deadline_seconds=0), 1)
    learner.next.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "groups.sqlite"


@pytest.fixture
def inbox(path: Path) -> Inbox:
    return make_inbox(path)
