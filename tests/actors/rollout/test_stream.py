"""The worker's end of the stream against a real learner's end; only the sampling is scripted."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from rlserve.actors.learner.ingest import frames
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.stream_service import SERVICE_NAME, RolloutStreamService
from rlserve.actors.rollout.stages import WorkProgress
from rlserve.actors.rollout.stream import StreamSession
from rlserve.errors import ConfigError, DeadlineExceeded, EngineDied, Unavailable
from rlserve.records import RolloutGroup
from rlserve.records.lease import REPORT_SECONDS, Lease
from rlserve.rpc.channel import open_channel
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc
from tests.support.intake import answer, make_inbox


@asynccontextmanager
async def learner(inbox: Inbox, *, max_group_bytes: int = 2**20) -> AsyncIterator[tuple[str, RolloutStreamService]]:
    service = RolloutStreamService(inbox, max_group_bytes=max_group_bytes)
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, service)
    options = ServerOptions(stop_grace_seconds=0.1)
    async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
        yield server.address, service
        await service.close()


def session(work: Callable[[Lease], Awaitable[RolloutGroup]], **changes: Any) -> StreamSession:
    fields = {"worker_id": "w", "run_id": "run", "tokenizer_fingerprint": "tok", "capacity": 3, **changes}
    return StreamSession(incarnation="i", work=work, **fields)


def dialling(address: str) -> Callable[[], Awaitable[grpc.aio.Channel]]:
    async def connect() -> grpc.aio.Channel:
        return open_channel(address)

    return connect


async def sample(lease: Lease) -> RolloutGroup:
    await asyncio.sleep(0.01)
    return answer(lease)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_groups_are_delivered_until_the_learner_says_goodbye(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "g.sqlite")
    async with learner(inbox) as (address, service):
        worker = session(sample)

        async def connect() -> grpc.aio.Channel:
            return open_channel(address)

        running = asyncio.create_task(worker.run(connect))
        await until(lambda: worker.acks["accepted"] >= 8)
        await service.finish("done")
        assert await asyncio.wait_for(running, 10) == "done"
        assert worker.acks["accepted"] >= 8
        assert inbox.queue.rejections() == {}


async def test_a_restarted_learner_gets_what_was_not_acknowledged_and_nothing_twice(tmp_path: Path) -> None:
    addresses: list[str] = []
    hold = asyncio.Event()

    async def slow(lease: Lease) -> RolloutGroup:
        await hold.wait()
        return answer(lease)

    async def connect() -> grpc.aio.Channel:
        return open_channel(addresses[-1])

    worker = session(slow)
    async with learner(make_inbox(tmp_path / "g.sqlite")) as (address, _):
        addresses.append(address)
        running = asyncio.create_task(worker.run(connect))
        await until(lambda: worker.num_running == 3)
    hold.set()
    await until(lambda: worker.num_running == 0)
    inbox = make_inbox(tmp_path / "g.sqlite")
    async with learner(inbox) as (address, service):
        addresses.append(address)
        await until(lambda: inbox.queue.counts().queued >= 3)
        taken = inbox.queue.take(3, deadline_seconds=5)
        assert [group.group_id for group in taken] == [f"run/train/{i}" for i in range(3)]
        await service.finish("done")
        await asyncio.wait_for(running, 10)


async def test_work_that_cannot_be_done_gives_its_lease_back(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "g.sqlite")
    failed: list[str] = []

    async def fails_once(lease: Lease) -> RolloutGroup:
        if not failed:
            failed.append(lease.group_id)
            raise Unavailable("environment: no server offers it")
        return answer(lease)

    async with learner(inbox) as (address, service):

        async def connect() -> grpc.aio.Channel:
            return open_channel(address)

        running = asyncio.create_task(session(fails_once).run(connect))
        await until(lambda: inbox.queue.counts().queued >= 8)
        assert failed[0] in {group.group_id for group in inbox.queue.take(8, deadline_seconds=5)}
        await service.finish("done")
        await asyncio.wait_for(running, 10)


async def test_a_dead_engine_ends_the_session(tmp_path: Path) -> None:
    async def dies(lease: Lease) -> RolloutGroup:
        raise EngineDied("engine: EngineCore was killed")

    async with learner(make_inbox(tmp_path / "g.sqlite")) as (address, _):

        async def connect() -> grpc.aio.Channel:
            return open_channel(address)

        with pytest.raises(EngineDied):
            await asyncio.wait_for(session(dies).run(connect), 10)


async def test_a_goodbye_of_something_else_than_the_runs_learner_ends_no_worker(tmp_path: Path) -> None:
    class Impostor(pb_grpc.RolloutStreamServiceServicer):
        num_streams = 0

        async def Stream(self, requests, context):  # type: ignore[no-untyped-def,override]
            self.num_streams += 1
            if self.num_streams == 1:
                yield pb.StreamResponse(welcome=pb.Welcome(run_id="another"))
            yield pb.StreamResponse(goodbye=pb.Goodbye(reason="go home"))

    inbox, impostor = make_inbox(tmp_path / "g.sqlite"), Impostor()
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, impostor)
    async with learner(inbox) as (address, service), serving(add, service_names=[SERVICE_NAME]) as fake:

        async def connect() -> grpc.aio.Channel:
            return open_channel(fake.address if impostor.num_streams < 2 else address)

        running = asyncio.create_task(session(sample).run(connect))
        await until(lambda: inbox.queue.counts().queued >= 2)
        await service.finish("done")
        assert await asyncio.wait_for(running, 10) == "done"
        assert impostor.num_streams == 2


async def test_what_moves_is_never_cancelled_however_long_it_takes(tmp_path: Path) -> None:
    """A lease of 0.8 s, work that takes 6 s and samples a few tokens: the learner waits, so does the worker."""
    tokens: Counter[str] = Counter()
    warnings: list[str] = []

    async def slow(lease: Lease) -> RolloutGroup:
        for _ in range(20):
            await asyncio.sleep(0.3)
            tokens[lease.group_id] += 1
        return answer(lease)

    inbox = make_inbox(tmp_path / "g.sqlite", lease_seconds=0.8, warn=lambda message, **_: warnings.append(message))
    async with learner(inbox) as (address, service):
        worker = session(slow, progress_of=lambda name: WorkProgress(tokens[name], 1, "engine"))
        running = asyncio.create_task(worker.run(dialling(address)))
        await until(lambda: worker.num_running == 3)
        longest = 0.0
        while worker.num_running == 3:
            longest = max(longest, inbox.seconds_without_progress())
            await asyncio.sleep(0.05)
        await until(lambda: inbox.queue.counts().queued >= 3)
        assert warnings == []
        assert longest < 2 * REPORT_SECONDS + 1
        await service.finish("done")
        await asyncio.wait_for(running, 10)


async def test_what_stands_still_comes_back_and_says_where_it_stood(tmp_path: Path) -> None:
    warnings: list[str] = []

    async def stuck(lease: Lease) -> RolloutGroup:
        await asyncio.Event().wait()
        raise AssertionError

    inbox = make_inbox(tmp_path / "g.sqlite", lease_seconds=1.0, warn=lambda message, **_: warnings.append(message))
    async with learner(inbox) as (address, service):
        worker = session(stuck, progress_of=lambda _: WorkProgress(5, 3, "verifier 'slow'"))
        running = asyncio.create_task(worker.run(dialling(address)))
        await until(lambda: bool(warnings))
        assert "w returned the lease of 'arithmetic': DeadlineExceeded: stood still for" in warnings[0]
        assert "at verifier 'slow', after 5 tokens" in warnings[0]
        with pytest.raises(DeadlineExceeded, match=r"leases came back unfinished \(w: DeadlineExceeded: stood still"):
            inbox.queue.take(1, deadline_seconds=0)
        await service.finish("done")
        await asyncio.wait_for(running, 10)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), "TimeoutError (at engine)"),
        (KeyError("answer"), "KeyError: 'answer' (at engine)"),
        (
            Unavailable("environment 'x': no server offers it"),
            "Unavailable: environment 'x': no server offers it (at engine)",
        ),
    ],
)
async def test_every_cause_is_told_with_its_stage_and_costs_the_lease_alone(
    tmp_path: Path, error: Exception, told: str
) -> None:
    warnings: list[str] = []
    failed: set[str] = set()

    async def fails_once(lease: Lease) -> RolloutGroup:
        if lease.group_id not in failed:
            failed.add(lease.group_id)
            raise error
        return answer(lease)

    inbox = make_inbox(tmp_path / "g.sqlite", warn=lambda message, **_: warnings.append(message))
    async with learner(inbox) as (address, service):
        worker = session(fails_once, progress_of=lambda _: WorkProgress(0, 1, "engine"))
        running = asyncio.create_task(worker.run(dialling(address)))
        await until(lambda: inbox.queue.counts().queued >= 3)
        assert warnings[0] == (f"w returned the lease of 'arithmetic': {told}; it is tried again")
        await service.finish("done")
        await asyncio.wait_for(running, 10)


@pytest.mark.parametrize("wrong", [{"run_id": "other"}, {"tokenizer_fingerprint": "other"}, {"worker_id": "w w"}])
async def test_a_worker_that_is_refused_ends_with_the_learners_words(tmp_path: Path, wrong: dict[str, str]) -> None:
    async with learner(make_inbox(tmp_path / "g.sqlite")) as (address, _):
        with pytest.raises(ConfigError, match=rf"the learner: hello\.{next(iter(wrong))}: "):
            await asyncio.wait_for(session(sample, **wrong).run(dialling(address)), 10)


async def test_a_group_that_the_learner_takes_only_in_parts_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "PART_BYTES", 64)
    inbox = make_inbox(tmp_path / "g.sqlite")
    async with learner(inbox) as (address, service):
        running = asyncio.create_task(session(sample).run(dialling(address)))
        await until(lambda: inbox.queue.counts().queued >= 8)
        await service.finish("done")
        await asyncio.wait_for(running, 10)


async def test_a_group_that_is_too_large_comes_back_and_names_the_key(tmp_path: Path) -> None:
    warnings: list[str] = []
    inbox = make_inbox(tmp_path / "g.sqlite", warn=lambda message, **_: warnings.append(message))
    async with learner(inbox, max_group_bytes=100) as (address, service):
        running = asyncio.create_task(session(sample).run(dialling(address)))
        await until(lambda: bool(warnings))
        assert "more than learner.max_group_bytes = 100; raise that" in warnings[0]
        await service.finish("done")
        await asyncio.wait_for(running, 10)
