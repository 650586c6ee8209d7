"""A store goes with its run and its checkpoints, or says why not and how to go on."""

import json
from pathlib import Path

import pytest

from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, StateCorrupt
from rlserve.store.base import StoreMark
from rlserve.store.binding import RunFacts, bind, changes, check_is_there, check_mark, stored_facts
from rlserve.store.sqlite import SqliteStore
from rlserve.store.sqlite_backend import SqliteBackend

ROOT = Path("runs/r")
FACTS = RunFacts(name="r", seed=3, group_size=8)
WAY_ON = "rlserve run --resume runs/r --restore-store"


def mark(sequence: int, store_id: str = "a") -> StoreMark:
    return StoreMark(store_id, sequence)


@pytest.mark.parametrize(
    ("store", "checkpoint"),
    [(mark(0), None), (mark(1), None), (mark(4), mark(4)), (mark(5), mark(4)), (mark(9), mark(4))],
)
def test_a_run_goes_on_with_its_own_store_of_then_or_later(store: StoreMark, checkpoint: StoreMark | None) -> None:
    check_mark(store, checkpoint, step=20, root=ROOT)


@pytest.mark.parametrize(
    ("store", "checkpoint", "told"),
    [
        (mark(3), mark(4), "is older than the checkpoint of step 20"),
        (mark(0), mark(4), "is older than the checkpoint of step 20"),
        (mark(4, "b"), mark(4), "was not made by this run"),
        (mark(2), None, "checkpoints: there is none"),
    ],
)
def test_any_other_is_refused_with_a_way_on(store: StoreMark, checkpoint: StoreMark | None, told: str) -> None:
    with pytest.raises(StateCorrupt, match=told) as refusal:
        check_mark(store, checkpoint, step=20, root=ROOT)
    assert (WAY_ON if checkpoint else "--overwrite") in str(refusal.value)


def test_a_missing_store_is_never_replaced_by_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    with pytest.raises(StateCorrupt, match=r"groups\.sqlite is missing.*checkpoint of step 20.*--restore-store"):
        check_is_there(SqliteBackend(), RunPaths(tmp_path), step=20)
    SqliteStore(path).close()
    check_is_there(SqliteBackend(), RunPaths(tmp_path), step=20)


def test_what_a_resumed_run_cannot_change_is_refused_and_the_rest_is_said() -> None:
    assert list(changes(FACTS, FACTS)) == []
    with pytest.raises(InvalidRequest, match=r"name: is 'other'.*'r'"):
        list(changes(FACTS, RunFacts(name="other", seed=3, group_size=8)))
    with pytest.raises(InvalidRequest, match=r"seed: is 4.*3"):
        list(changes(FACTS, RunFacts(name="r", seed=4, group_size=8)))
    (warning,) = changes(FACTS, RunFacts(name="r", seed=3, group_size=4))
    assert warning.startswith("rollout.group_size: is 4 now, was 8")


def test_a_store_remembers_its_run_and_can_be_asked_while_it_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    assert stored_facts(SqliteBackend(), RunPaths(tmp_path)) is None
    store = SqliteStore(path)
    assert stored_facts(SqliteBackend(), RunPaths(tmp_path)) is None
    assert list(bind(store, FACTS)) == []
    assert stored_facts(SqliteBackend(), RunPaths(tmp_path)) == FACTS
    assert len(list(bind(store, RunFacts(name="r", seed=3, group_size=4)))) == 1
    assert json.loads(store.recall("run") or "")["group_size"] == 4
    with pytest.raises(InvalidRequest):
        list(bind(store, RunFacts(name="r", seed=5, group_size=4)))
    assert json.loads(store.recall("run") or "")["seed"] == 3
    store.close()


@pytest.mark.parametrize("content", [b"", b"nothing of the kind" * 500])
def test_an_unreadable_store_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "groups.sqlite"
    path.write_bytes(content)
    assert stored_facts(SqliteBackend(), RunPaths(tmp_path)) is None
