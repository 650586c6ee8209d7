"""What every store promises. A new implementation is one more entry of ``IMPLEMENTATIONS``."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlserve.config.paths import RunPaths
from rlserve.errors import StateCorrupt
from rlserve.store.base import GroupCounts, GroupInfo, Receipt, Store
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.sqlite import SqliteStore
from tests.support.processes.redis_server import shared_server

IMPLEMENTATIONS: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda directory: SqliteStore(directory / "groups.sqlite"),
    "sqlite-power-safe": lambda directory: SqliteStore(directory / "groups.sqlite", power_safe=True),
    "redis": lambda directory: RedisBackend(url=shared_server().url).open(RunPaths(directory)),
}


class Reopenable:
    """Opens the same stored data again and again."""

    def __init__(self, make: Callable[[Path], Store], directory: Path) -> None:
        self._make = make
        self._directory = directory
        self._opened: list[Store] = []

    def open(self) -> Store:
        self.close()
        self._opened.append(self._make(self._directory))
        return self._opened[-1]

    def close(self) -> None:
        for store in self._opened:
            store.close()
        self._opened.clear()


@pytest.fixture(params=IMPLEMENTATIONS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopenable]:
    place = Reopenable(IMPLEMENTATIONS[request.param], tmp_path)
    yield place
    place.close()


@pytest.fixture
def store(place: Reopenable) -> Store:
    return place.open()


def fill(store: Store, *ids: str) -> None:
    for group_id in ids:
        assert store.receive(GroupInfo(group_id=group_id), group_id.encode())


def waiting(store: Store) -> list[str]:
    return [group.group_id for group in store.queued()]


def test_a_new_store_has_received_nothing(store: Store) -> None:
    assert store.counts() == GroupCounts(received=0, consumed=0, queued=0, dropped={})
    assert store.queued() == []
    assert store.cursor() is None
    assert store.rejections() == {}


def test_groups_wait_in_order_of_arrival_with_their_bytes(store: Store) -> None:
    fill(store, "b", "c", "a")
    assert [(group.group_id, group.payload) for group in store.queued()] == [("b", b"b"), ("c", b"c"), ("a", b"a")]
    assert [group.group_id for group in store.queued(2)] == ["b", "c"]


def test_the_second_copy_of_a_group_changes_nothing(store: Store) -> None:
    fill(store, "a", "b")
    store.consume(["a"], step=1)
    before = store.counts()
    assert not store.receive(GroupInfo(group_id="a"), b"other")
    assert not store.receive(GroupInfo(group_id="b"), b"other")
    assert not store.receive_dropped(GroupInfo(group_id="b"), "stale")
    assert store.counts() == before
    assert store.queued()[0].payload == b"b"


def test_many_are_received_at_once_in_their_order_each_once(place: Reopenable) -> None:
    store = place.open()
    fill(store, "old")
    receipts = [
        Receipt(info=GroupInfo(group_id="b"), payload=b"b"),
        Receipt(info=GroupInfo(group_id="useless"), dropped="zero_variance"),
        Receipt(info=GroupInfo(group_id="old"), payload=b"other"),
        Receipt(info=GroupInfo(group_id="a"), payload=b"a"),
        Receipt(info=GroupInfo(group_id="b"), payload=b"again"),
    ]
    rejected = {"stale": 2, "nan_logprob": 1}
    assert store.receive_many(receipts, rejected=rejected) == [True, True, False, True, False]
    store.receive_many([], rejected={"stale": 1})
    store = place.open()
    assert [(group.group_id, group.payload) for group in store.queued()] == [("old", b"old"), ("b", b"b"), ("a", b"a")]
    assert store.counts() == GroupCounts(received=4, consumed=0, queued=3, dropped={"zero_variance": 1})
    assert store.rejections() == {"nan_logprob": 1, "stale": 3}


def test_every_group_is_in_exactly_one_place(store: Store) -> None:
    fill(store, "a", "b", "c", "d")
    assert store.receive_dropped(GroupInfo(group_id="e"), "stale")
    assert store.receive_dropped(GroupInfo(group_id="f"), "zero_variance")
    store.consume(["a", "b"], step=1)
    store.drop(["c"], "stale", step=2)
    assert store.counts() == GroupCounts(received=6, consumed=2, queued=1, dropped={"stale": 2, "zero_variance": 1})
    assert waiting(store) == ["d"]
    assert all(store.knows(group_id) for group_id in "abcdef")
    assert not store.knows("g")


def test_everything_is_there_after_reopening(place: Reopenable) -> None:
    store = place.open()
    fill(store, "a", "b", "c")
    store.consume(["b"], step=1)
    store.receive_dropped(GroupInfo(group_id="d"), "stale")
    store.reject("nan_logprob")
    store.set_cursor('{"counter": 4}')
    before = store.counts()
    store = place.open()
    assert store.counts() == before
    assert waiting(store) == ["a", "c"]
    assert store.cursor() == '{"counter": 4}'
    assert store.rejections() == {"nan_logprob": 1}


def test_consuming_and_dropping_may_be_repeated(store: Store) -> None:
    fill(store, "a", "b")
    for _ in range(2):
        store.consume(["a"], step=3)
        store.drop(["b"], "stale", step=3)
    assert store.counts() == GroupCounts(received=2, consumed=1, queued=0, dropped={"stale": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda store: store.consume(["queued", "unknown"], step=2),
        lambda store: store.consume(["queued", "consumed"], step=2),
        lambda store: store.consume(["queued", "dropped"], step=1),
        lambda store: store.drop(["queued", "unknown"], "stale", step=2),
        lambda store: store.drop(["queued", "consumed"], "stale", step=2),
        lambda store: store.drop(["queued", "dropped"], "other", step=1),
    ],
)
def test_a_group_never_moves_twice_and_a_refused_move_changes_nothing(
    store: Store, wrong: Callable[[Store], None]
) -> None:
    fill(store, "queued", "consumed", "dropped")
    store.consume(["consumed"], step=1)
    store.drop(["dropped"], "stale", step=1)
    before = store.counts()
    with pytest.raises(StateCorrupt, match=r"group .* (was never received|is \w+)"):
        wrong(store)
    assert store.counts() == before
    assert waiting(store) == ["queued"]


def test_a_rollback_queues_what_later_steps_took_in_the_old_order(place: Reopenable) -> None:
    store = place.open()
    fill(store, *"abcdef")
    store.consume(["b"], step=1)
    store.drop(["c"], "stale", step=2)
    store.consume(["d", "a"], step=2)
    store.consume(["e"], step=3)
    store.receive_dropped(GroupInfo(group_id="g"), "zero_variance")
    store = place.open()
    store.rollback(1)
    assert waiting(store) == ["a", "c", "d", "e", "f"]
    assert store.counts() == GroupCounts(received=7, consumed=1, queued=5, dropped={"zero_variance": 1})
    store.rollback(1)
    assert waiting(store) == ["a", "c", "d", "e", "f"]
    store.consume(["a"], step=2)


def test_what_is_dropped_for_good_never_comes_back(place: Reopenable) -> None:
    store = place.open()
    fill(store, "a", "b", "c")
    for _ in range(2):
        store.drop(["b"], "not_finite", step=None)
    store.consume(["a"], step=4)
    store = place.open()
    store.rollback(0)
    assert waiting(store) == ["a", "c"]
    assert store.counts() == GroupCounts(received=3, consumed=0, queued=2, dropped={"not_finite": 1})


def test_a_mark_counts_up_and_a_store_is_known_by_its_id(place: Reopenable, tmp_path: Path) -> None:
    store = place.open()
    first = store.marked()
    assert (first.sequence, len(first.store_id)) == (0, 32)
    assert [store.mark().sequence for _ in range(3)] == [1, 2, 3]
    store = place.open()
    assert store.marked() == replace(first, sequence=3)
    (tmp_path / "other").mkdir()
    other = SqliteStore(tmp_path / "other" / "groups.sqlite")
    assert other.marked().store_id != first.store_id
    other.close()


def test_facts_are_kept_and_replaced(place: Reopenable) -> None:
    store = place.open()
    assert store.recall("measured") is None
    store.remember("measured", "at-5")
    store.remember("measured", "at-10")
    store.rollback(0)
    assert place.open().recall("measured") == "at-10"


def test_a_copy_resumes_at_its_step_and_holds_no_payload_that_is_not_needed(store: Store, tmp_path: Path) -> None:
    fill(store, "a", "b", "c", "d")
    store.consume(["a"], step=1)
    store.drop(["b"], "stale", step=1)
    store.set_cursor("here")
    mark = store.mark()
    store.copy_to(tmp_path / "copy.sqlite", step=1)
    store.consume(["c"], step=2)
    copy = SqliteStore(tmp_path / "copy.sqlite")
    assert (copy.marked(), copy.cursor()) == (mark, "here")
    copy.rollback(1)
    assert waiting(copy) == ["c", "d"]
    assert copy.counts() == GroupCounts(received=4, consumed=1, queued=2, dropped={"stale": 1})
    with pytest.raises(StateCorrupt, match="--restore-store"):
        copy.rollback(0)
    copy.consume(["c"], step=2)
    assert fill(copy, "e") is None
    copy.close()


def test_a_rollback_to_the_present_changes_nothing(store: Store) -> None:
    fill(store, "a", "b")
    store.consume(["a"], step=5)
    before = store.counts()
    store.rollback(5)
    assert store.counts() == before


def test_a_checkpoint_keeps_the_counts_and_what_may_come_back(store: Store) -> None:
    fill(store, "a", "b", "c")
    store.consume(["a"], step=1)
    store.consume(["b"], step=2)
    before = store.counts()
    store.checkpoint(1)
    assert store.counts() == before
    store.rollback(1)
    assert [(group.group_id, group.payload) for group in store.queued()] == [("b", b"b"), ("c", b"c")]


def test_a_rollback_behind_the_checkpoint_is_refused_whole(store: Store) -> None:
    fill(store, "a", "b", "c")
    store.consume(["a"], step=1)
    store.consume(["b"], step=2)
    store.consume(["c"], step=3)
    store.checkpoint(2)
    before = store.counts()
    with pytest.raises(StateCorrupt, match="resume from step 2"):
        store.rollback(0)
    assert store.counts() == before
    assert waiting(store) == []


def test_rejections_are_counted_by_reason_and_apart(store: Store) -> None:
    for reason in ("nan_logprob", "unknown_lease", "nan_logprob"):
        store.reject(reason)
    assert store.rejections() == {"nan_logprob": 2, "unknown_lease": 1}
    assert store.counts().received == 0


def test_a_cursor_survives_a_rollback(store: Store) -> None:
    store.set_cursor("one")
    store.set_cursor("two")
    store.rollback(0)
    assert store.cursor() == "two"


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(StateCorrupt, match="received 3 groups"):
        GroupCounts(received=3, consumed=1, queued=0, dropped={"stale": 1})
