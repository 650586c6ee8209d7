"""A store that takes long, or is full for a while, holds up the groups and nothing else; none is lost."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from rlserve.actors.learner.ingest import inbox as inbox_module
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.batching.filters import why_drop
from rlserve.config.paths import RunPaths
from rlserve.errors import NotReady
from rlserve.store.redis_backend import RedisBackend
from rlserve.store.sqlite import SqliteStore
from rlserve.v1 import rollout_stream_service_pb2 as pb
from tests.actors.learner.ingest.test_stream_service import learner
from tests.support.intake import GRPO, answer, deliver, lease_out, offer, settings
from tests.support.processes.redis_server import RedisServer


async def test_while_the_store_takes_long_streams_and_event_loop_go_on(tmp_path: Path) -> None:
    async with learner(tmp_path, max_outstanding=2) as setting:
        worker = await setting.worker("a")
        leases = await worker.leased(2)
        store, goes_on = setting.inbox.queue._store, threading.Event()
        receive = store.receive_many

        def late(*arguments, **named):  # type: ignore[no-untyped-def]
            assert goes_on.wait(20)
            return receive(*arguments, **named)

        store.receive_many = late  # type: ignore[method-assign]
        sent = asyncio.create_task(worker.send(answer(leases[0], worker_id="a")))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        # Its lock is held, and yet another worker is welcomed.
        other = await setting.worker("b")
        assert time.monotonic() - started < 5
        assert not sent.done()
        goes_on.set()
        assert (await sent).status == pb.Ack.STATUS_ACCEPTED
        await worker.send(answer(leases[1], worker_id="a"))
        setting.inbox.queue.commit(1, [lease.group_id for lease in leases])
        assert await other.leased(1)
        for one in (worker, other):
            await one.leave()


def test_a_lease_does_not_expire_while_nobody_could_renew_it(tmp_path: Path) -> None:
    now = [0.0]
    inbox = Inbox(
        SqliteStore(tmp_path / "groups.sqlite"),
        settings(lease_seconds=1.0),
        why_drop=lambda group: None,
        clock=lambda: now[0],
    )
    lease_out(inbox, capacity=1)
    now[0] = 100.0
    assert inbox.expire(paused=lambda: 100.0) == []
    now[0] = 110.0
    assert len(inbox.expire()) == 1


def test_a_full_store_holds_groups_up_until_training_made_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "FULL_SECONDS", 0.05)
    warned: list[str] = []
    with RedisServer() as server:
        store = RedisBackend(url=server.url).open(RunPaths(tmp_path))
        inbox = Inbox(
            store,
            settings(max_outstanding=8),
            why_drop=lambda group: why_drop(group, GRPO),
            warn=lambda message, **fields: warned.append(message),
        )
        first, second, *_ = lease_out(inbox)
        deliver(inbox, [first])
        server.client().config_set("maxmemory", 1)
        offering = threading.Thread(target=offer, args=(inbox, answer(second)))
        offering.start()
        # Without the lock: a step is taken, committed and checkpointed meanwhile.
        [group] = inbox.queue.take(1, deadline_seconds=5)
        inbox.queue.commit(1, [group.group_id])
        inbox.queue.published(1)
        inbox.queue.checkpointed(1)
        assert offering.is_alive() and (inbox.queue.counts().received, inbox.queue.counts().consumed) == (1, 1)
        server.client().config_set("maxmemory", 0)
        offering.join(10)
        assert not offering.is_alive()
        assert (inbox.queue.counts().received, inbox.queue.counts().queued) == (2, 1)
        assert "has reached its memory limit" in warned[0] and "workers keep their groups" in warned[0]

        server.client().config_set("maxmemory", 1)
        threading.Timer(0.2, inbox.close).start()
        third = lease_out(inbox, "x", capacity=1)[0]
        with pytest.raises(NotReady, match="memory limit"):
            offer(inbox, answer(third, worker_id="x"))
        store.close()
