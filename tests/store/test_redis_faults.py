"""A store in Redis loses no group that it acknowledged: the learner killed, Redis killed, full, away, failed over."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlserve.config.paths import RunPaths
from rlserve.errors import NotReady, StateCorrupt, Unavailable
from rlserve.store.base import GroupInfo, Store
from rlserve.store.patient import Patience, patient
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.redis_link import RedisLink
from rlserve.store.redis_store import RedisStore
from tests.support.processes.redis_server import RedisServer, shared_server

# Receives, trains and drops without end, through every restart of Redis. Says what was done, after the store said so.
WRITER = """
import sys
from pathlib import Path
from rlserve.config.paths import RunPaths
from rlserve.store.base import GroupInfo
from rlserve.store.patient import Patience, patient
from rlserve.store.redis_backend import RedisBackend

patience = Patience(limit_seconds=60, warn=lambda words: print("warning", flush=True))
backend = RedisBackend(url=sys.argv[1])
store = patient(patience.call(lambda: backend.open(RunPaths(Path(sys.argv[2])))), patience)
counts = store.counts()
step = counts.consumed // 3
for number in range(counts.received, 10**6):
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
    if number % 50 == 49:
        store.checkpoint(step - 5)
"""


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def opened(server: RedisServer, paths: RunPaths, **options: int) -> Store:
    return RedisBackend(url=server.url, **options).open(paths)


def test_kills_of_the_learner_of_redis_and_of_both_lose_no_acknowledged_group(paths: RunPaths) -> None:
    pauses, acknowledged = random.Random(7), -1
    # `always`: with `everysec` a slow disk may hold a write back for two seconds.
    with RedisServer("--appendfsync", "always") as server:
        for victim in ("learner", "redis", "both", "redis"):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, server.url, str(paths.root)], stdout=subprocess.PIPE, text=True
            )
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(20)]
            time.sleep(pauses.uniform(0.0, 0.1))
            if victim == "both":
                writer.send_signal(signal.SIGKILL)
            if victim != "learner":
                server.kill()
                server.start()
            if victim == "redis":  # the same learner goes on
                lines += [writer.stdout.readline() for _ in range(60)]
                assert "warning\n" in lines
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().split("\n")[:-1]
            writer.wait()
            received = [int(line.split()[1]) for line in lines if line.startswith("received ")]
            acknowledged = max([acknowledged, *received])
            store = opened(server, paths)
            counts = store.counts()  # raises when the numbers do not add up
            # One group may be stored and not yet acknowledged.
            assert acknowledged + 1 <= counts.received <= acknowledged + 2
            assert all(store.knows(f"g{number}") for number in range(acknowledged + 1))
            assert all(group.payload == group.group_id[1:].encode() * 500 for group in store.queued())
            store.close()
    assert acknowledged > 80


def test_calls_wait_while_redis_is_away_and_say_so(paths: RunPaths) -> None:
    said: list[str] = []
    with RedisServer() as server:
        patience = Patience(limit_seconds=60, warn=said.append)
        store = patient(opened(server, paths), patience)
        store.receive(GroupInfo(group_id="a"), b"a")
        server.kill()
        back = threading.Timer(1.0, server.start)
        back.start()
        started = time.monotonic()
        assert store.receive(GroupInfo(group_id="b"), b"b")
        assert time.monotonic() - started >= 0.9
        assert [group.payload for group in store.queued()] == [b"a", b"b"]
        back.join()
    assert "cannot be reached" in said[0] and "the run goes on when it is back" in said[0]
    assert len(said) == 2 and "it is back after" in said[1]


def test_a_wait_ends_at_its_limit_or_when_the_run_is_stopped(paths: RunPaths) -> None:
    stop = threading.Event()
    with RedisServer() as server:
        store = opened(server, paths)
        server.kill()
        with pytest.raises(Unavailable, match=r"away for 1 s \(learner.max_wait_seconds\): the run ends"):
            patient(store, Patience(limit_seconds=1, warn=lambda _: None)).counts()
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Unavailable, match="cannot be reached"):
            patient(store, Patience(limit_seconds=60, warn=lambda _: None, stop=stop)).counts()


def test_a_server_that_hangs_counts_as_away(paths: RunPaths) -> None:
    with RedisServer() as server:
        link = RedisLink(server.url, call_seconds=0.3)
        store = RedisStore(link, "hangs", way_on="")
        server.freeze()
        with pytest.raises(Unavailable, match="cannot be reached"):
            store.receive(GroupInfo(group_id="a"), b"a")
        server.thaw()
        # The first try may have arrived, and the second is no other group.
        store.receive(GroupInfo(group_id="a"), b"a")
        assert store.counts().received == 1
        store.close()


def test_at_its_memory_limit_nothing_is_lost_and_training_makes_room(paths: RunPaths) -> None:
    with RedisServer() as server:
        store = opened(server, paths)
        server.client().config_set("maxmemory", server.client().info()["used_memory"] + 2**20)
        taken = 0
        with pytest.raises(NotReady, match=r"has reached its memory limit; raise it \(redis-cli -u redis://127"):
            for number in range(100):
                store.receive(GroupInfo(group_id=f"g{number}"), bytes(100_000))
                taken += 1
        assert 1 <= taken < 50 and store.counts().received == taken
        with pytest.raises(NotReady):
            store.receive(GroupInfo(group_id="more"), bytes(100_000))
        # All that a step and a checkpoint do works at the limit.
        ids = [group.group_id for group in store.queued()]
        store.consume(ids[1:], step=1)
        store.drop(ids[:1], "stale", step=1)
        store.receive_dropped(GroupInfo(group_id="useless"), "zero_variance")
        store.reject("stale")
        store.set_cursor("here")
        assert store.mark().sequence == 1
        store.rollback(1)
        store.checkpoint(1)
        assert store.receive(GroupInfo(group_id="more"), bytes(100_000))
        assert store.counts().received == taken + 2
        store.close()


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica, which follows."""
    with RedisServer() as master, RedisServer() as replica:
        replica.client().execute_command("REPLICAOF", "127.0.0.1", master.port)
        until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        yield master, replica


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def both(pair: tuple[RedisServer, RedisServer]) -> str:
    return f"redis://127.0.0.1:{pair[0].port},127.0.0.1:{pair[1].port}/0"


def test_a_failover_to_a_replica_that_confirms_loses_nothing(
    pair: tuple[RedisServer, RedisServer], paths: RunPaths
) -> None:
    master, replica = pair
    backend = RedisBackend(url=both(pair), replicas=1)
    assert list(backend.problems(paths)) == []
    store = patient(backend.open(paths), Patience(limit_seconds=60, warn=lambda _: None))
    for number in range(20):
        store.receive(GroupInfo(group_id=f"g{number}"), b"x")
    store.consume(["g0", "g1"], step=1)
    master.kill()
    threading.Timer(0.5, lambda: replica.client().execute_command("REPLICAOF", "NO", "ONE")).start()
    counts = store.counts()  # waits for the promotion
    assert (counts.received, counts.consumed) == (20, 2)
    # The new master has no replica yet to confirm a write.
    assert "0 replicas are attached" in next(iter(backend.problems(paths))).message
    alone = RedisBackend(url=both(pair)).open(paths)
    assert alone.receive(GroupInfo(group_id="g20"), b"x")
    assert [group.group_id for group in alone.queued(1)] == ["g2"]
    alone.close()


def test_a_write_that_no_replica_confirms_is_not_acknowledged(
    pair: tuple[RedisServer, RedisServer], paths: RunPaths
) -> None:
    master, replica = pair
    store = RedisBackend(url=master.url, replicas=1).open(paths)
    replica.kill()
    with pytest.raises(Unavailable, match=r"0 of 1 replicas \(store.options.replicas\) confirmed"):
        store.receive(GroupInfo(group_id="a"), b"a")
    replica.start()
    replica.client().execute_command("REPLICAOF", "127.0.0.1", master.port)
    until(lambda: replica.client().info("replication")["master_link_status"] == "up")
    store.receive(GroupInfo(group_id="a"), b"a")
    assert store.counts().received == 1
    store.close()


def test_a_failover_to_a_replica_that_lagged_ends_the_run(
    pair: tuple[RedisServer, RedisServer], paths: RunPaths
) -> None:
    master, replica = pair
    store = patient(RedisBackend(url=both(pair)).open(paths), Patience(limit_seconds=60, warn=lambda _: None))
    store.receive(GroupInfo(group_id="a"), b"a")
    until(lambda: bool(replica.client().exists(f"rlserve:{paths.root.name}:queue")))
    replica.client().execute_command("REPLICAOF", "NO", "ONE")
    store.receive(GroupInfo(group_id="b"), b"b")
    master.kill()
    with pytest.raises(StateCorrupt, match=r"came back without its last 1 writes: .*Resume the run"):
        store.receive(GroupInfo(group_id="c"), b"c")
    again = RedisBackend(url=both(pair)).open(paths)
    assert again.counts().received == 1
    again.close()


def test_a_server_that_comes_back_empty_ends_the_run(paths: RunPaths) -> None:
    with RedisServer() as server:
        store = opened(server, paths)
        store.receive(GroupInfo(group_id="a"), b"a")
        server.client().flushall()
        with pytest.raises(StateCorrupt, match="came back without what this run wrote"):
            store.receive(GroupInfo(group_id="b"), b"b")
        store.close()


def test_who_opens_a_store_last_alone_can_write(paths: RunPaths) -> None:
    first, second = opened(shared_server(), paths), opened(shared_server(), paths)
    second.receive(GroupInfo(group_id="a"), b"a")
    with pytest.raises(StateCorrupt, match="was opened by another learner since"):
        first.receive(GroupInfo(group_id="b"), b"b")
    assert first.counts().received == 1
    for store in (first, second):
        store.close()


def test_lost_rows_are_noticed_when_counting(paths: RunPaths) -> None:
    store = opened(shared_server(), paths)
    store.receive(GroupInfo(group_id="a"), b"a")
    store.receive(GroupInfo(group_id="b"), b"b")
    client = shared_server().client()
    client.hdel(f"rlserve:{paths.root.name}:groups", "a")
    with pytest.raises(StateCorrupt, match=r"received 2 groups, but .*:groups has 1"):
        store.counts()
    store.close()


def test_a_store_of_another_format_or_without_its_head_is_refused(paths: RunPaths) -> None:
    store = opened(shared_server(), paths)
    store.receive(GroupInfo(group_id="a"), b"a")
    store.close()
    client = shared_server().client()
    client.hset(f"rlserve:{paths.root.name}:meta", "format", 99)
    with pytest.raises(StateCorrupt, match="has format 99, this version reads 1"):
        opened(shared_server(), paths)
    client.delete(f"rlserve:{paths.root.name}:meta")
    with pytest.raises(StateCorrupt, match=r"is damaged.*--restore-store"):
        opened(shared_server(), paths)
