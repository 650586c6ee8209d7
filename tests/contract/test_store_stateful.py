"""Any sequence of operations leaves a store as a plain dictionary would be."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rlserve.config.paths import RunPaths
from rlserve.store.base import GroupInfo, StoreBackend
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.sqlite_backend import SqliteBackend
from tests.support.processes.redis_server import shared_server

IDS = st.sampled_from([f"g{number}" for number in range(12)])


@dataclass(frozen=True)
class Row:
    state: str
    reason: str = ""
    step: int | None = None


class StoreMachine(RuleBasedStateMachine):
    """The model: rows in order of arrival; steps only grow, except by a rollback."""

    def backend(self) -> StoreBackend:
        return SqliteBackend()

    @initialize()
    def start(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.paths = RunPaths(Path(self.place.name))
        self.store = self.backend().open(self.paths)
        self.rows: dict[str, Row] = {}
        self.step = 0
        self.checkpointed = 0

    @rule(group_id=IDS, payload=st.binary(max_size=8))
    def receive(self, group_id: str, payload: bytes) -> None:
        assert self.store.receive(GroupInfo(group_id=group_id), payload) == (group_id not in self.rows)
        self.rows.setdefault(group_id, Row("queued"))

    @rule(group_id=IDS)
    def receive_dropped(self, group_id: str) -> None:
        assert self.store.receive_dropped(GroupInfo(group_id=group_id), "stale") == (group_id not in self.rows)
        self.rows.setdefault(group_id, Row("dropped", "stale"))

    @rule(number=st.integers(0, 3))
    def consume_the_oldest(self, number: int) -> None:
        self.step += 1
        taken = [group.group_id for group in self.store.queued(number)]
        self.store.consume(taken, step=self.step)
        self.rows |= {group_id: Row("consumed", "", self.step) for group_id in taken}

    @rule(data=st.data())
    def drop_any(self, data: st.DataObject) -> None:
        queued = [group_id for group_id, row in self.rows.items() if row.state == "queued"]
        if not queued:
            return
        group_id = data.draw(st.sampled_from(queued))
        self.store.drop([group_id], "stale", step=self.step + 1)
        self.rows[group_id] = Row("dropped", "stale", self.step + 1)

    @rule(data=st.data())
    def drop_any_for_good(self, data: st.DataObject) -> None:
        queued = [group_id for group_id, row in self.rows.items() if row.state == "queued"]
        if queued:
            group_id = data.draw(st.sampled_from(queued))
            self.store.drop([group_id], "not_finite", step=None)
            self.rows[group_id] = Row("dropped", "not_finite")

    @rule()
    def go_on_with_a_copy(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.store.copy_to(Path(place.name) / "copy", step=self.step)
        self.close()
        self.place, self.paths, self.checkpointed = place, RunPaths(Path(place.name)), self.step
        self.backend().put_back(Path(place.name) / "copy", self.paths)
        self.store = self.backend().open(self.paths)

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint(self.step)
        self.checkpointed = self.step

    @precondition(lambda self: self.step > self.checkpointed)
    @rule(back=st.integers(0, 5))
    def rollback(self, back: int) -> None:
        self.step = max(self.checkpointed, self.step - back)
        self.store.rollback(self.step)
        for group_id, row in self.rows.items():
            if row.step is not None and row.step > self.step:
                self.rows[group_id] = replace(row, state="queued", reason="", step=None)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.backend().open(self.paths)

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        counts = self.store.counts()
        states = [row.state for row in self.rows.values()]
        assert counts.received == len(states)
        assert (counts.consumed, counts.queued) == (states.count("consumed"), states.count("queued"))
        assert sum(counts.dropped.values()) == states.count("dropped")
        queued = [group_id for group_id, row in self.rows.items() if row.state == "queued"]
        assert [group.group_id for group in self.store.queued()] == queued

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.close()

    def close(self) -> None:
        self.store.close()
        self.backend().remove(self.paths)
        self.place.cleanup()


class RedisMachine(StoreMachine):
    def backend(self) -> StoreBackend:
        return RedisBackend(url=shared_server().url)


@pytest.mark.parametrize("machine", [StoreMachine, RedisMachine])
def test_no_sequence_of_operations_loses_or_doubles_a_group(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
