"""A process that is killed in the middle of its writes loses nothing that it acknowledged."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlserve.errors import LimitExceeded, StateCorrupt
from rlserve.store.base import GroupInfo
from rlserve.store.sqlite import SqliteStore

# Receives, trains and drops without end. Says on stdout what was done, after the store said so.
WRITER = """
import sys
from pathlib import Path
from rlserve.store.base import GroupInfo
from rlserve.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
first, step = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + 10**6):
    if number % 5 == 4:
        store.receive_dropped(GroupInfo(group_id=f"g{number}"), "zero_variance")
    else:
        store.receive(GroupInfo(group_id=f"g{number}"), b"%d" % number * 500)
    print("received", number, flush=True)
    queued = [group.group_id for group in store.queued(4)]
    if len(queued) == 4:
        step += 1
        store.consume(queued[:3], step=step)
        store.drop(queued[3:], "stale", step=step)
        print("stepped", step, flush=True)
    if number % 50 == 49:
        store.checkpoint(step - 5)
"""


def write_until_killed(path: Path, first: int, step: int, seconds: float) -> tuple[int, int]:
    """The last group and step that the killed process acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(first), str(step)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().split("\n")[:-1]  # the last one may be cut: the kill can meet its print
    assert process.wait() == -signal.SIGKILL
    done = [line.split() for line in lines if line.count(" ") == 1]
    received = [int(number) for word, number in done if word == "received"]
    stepped = [int(number) for word, number in done if word == "stepped"]
    return received[-1], max(stepped, default=step)


def test_ten_kills_at_random_points_lose_no_acknowledged_group(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    pauses = random.Random(7)
    acknowledged, step = -1, 0
    for _ in range(10):
        acknowledged, step = write_until_killed(path, acknowledged + 1, step, pauses.uniform(0.0, 0.1))
        store = SqliteStore(path)
        counts = store.counts()  # raises when the numbers do not add up
        # One group may be committed and not yet acknowledged.
        assert acknowledged + 1 <= counts.received <= acknowledged + 2
        assert all(store.knows(f"g{number}") for number in range(acknowledged + 1))
        assert 3 * step <= counts.consumed <= 3 * (step + 1)
        for group in store.queued():
            assert group.payload == group.group_id[1:].encode() * 500
        if store.knows(f"g{acknowledged + 1}"):
            acknowledged += 1
        step = counts.consumed // 3
        store.close()
    assert acknowledged >= 10 and step >= 1


def test_a_group_that_was_not_acknowledged_can_be_sent_again_after_the_kill(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    last, _ = write_until_killed(path, 0, 0, 0.02)
    store = SqliteStore(path)
    before = store.counts().received
    sent_again = [store.receive(GroupInfo(group_id=f"g{number}"), b"x") for number in range(last + 2)]
    assert sent_again.count(True) == last + 2 - before
    assert store.counts().received == last + 2
    store.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4080])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "groups.sqlite"
    path.write_bytes(damage)
    with pytest.raises(StateCorrupt, match=r"groups\.sqlite"):
        SqliteStore(path)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    store = SqliteStore(path)
    store._db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(StateCorrupt, match="format 99"):
        SqliteStore(path)


def test_lost_rows_are_noticed_when_counting(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "groups.sqlite")
    store.receive(GroupInfo(group_id="a"), b"a")
    store.receive(GroupInfo(group_id="b"), b"b")
    store._db.execute("DELETE FROM groups WHERE group_id = 'a'")
    with pytest.raises(StateCorrupt, match="received 2 groups"):
        store.counts()
    store.close()


def test_payloads_of_trained_groups_leave_room_for_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "groups.sqlite"
    store = SqliteStore(path)
    sizes = []
    for step in range(1, 31):
        for number in range(8):
            store.receive(GroupInfo(group_id=f"g{step}-{number}"), bytes(10_000))
        store.consume([group.group_id for group in store.queued()], step=step)
        store.checkpoint(step)
        sizes.append(path.stat().st_size)
    store.close()
    assert sizes[-1] < sizes[0] + 100_000


def test_a_full_disk_refuses_a_group_and_keeps_the_others(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "groups.sqlite")
    store.receive(GroupInfo(group_id="a"), b"a")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(LimitExceeded, match="full"):
        store.receive(GroupInfo(group_id="b"), bytes(100_000))
    assert (store.counts().received, store.knows("b")) == (1, False)
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.receive(GroupInfo(group_id="b"), bytes(100_000))
    store.close()
