"""The worker's end of the stream against a real learner's end; only the sampling is scripted."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from intake import answer, make_inbox

from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.stream_service import SERVICE_NAME, RolloutStreamService
from rlserve.actors.rollout.session import StreamSession
from rlserve.errors import EngineDied, Unavailable
from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc.channel import open_channel
from rlserve.rpc.codec import GroupLimits
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc


@asynccontextmanager
async def learner(inbox: Inbox) -> AsyncIterator[tuple[str, RolloutStreamService]]:
    service = RolloutStreamService(inbox, limits=GroupLimits(), max_message_bytes=2**20)
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, service)
    options = ServerOptions(stop_grace_seconds=0.1)
    async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
        yield server.address, service
        await service.close()


def session(work: Callable[[Lease], Awaitable[RolloutGroup]]) -> StreamSession:
    return StreamSession(
        worker_id="w", run_id="run", incarnation="i", tokenizer_fingerprint="tok", capacity=3, work=work
    )


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
        await until(lambda: inbox.counts().queued >= 8)
        await service.finish("done")
        assert await asyncio.wait_for(running, 10) == "done"
        assert worker.acks["accepted"] >= 8
        assert inbox.rejections == {}


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
        await until(lambda: inbox.counts().queued >= 3)
        taken = inbox.take(3, deadline_seconds=5)
        assert [group.group_id for group in taken] == [f"run/train/{i}" for i in range(3)]
        await service.finish("done")
        await asyncio.wait_for(running, 10)


async def test_work_that_cannot_be_done_gives_its_lease_back(tmp_path: Path) -> None:
    inbox = make_inbox(tmp_path / "g.sqlite")
    failed: list[str] = []

    async def fails_once(lease: Lease) -> RolloutGroup:
        if not failed:
            failed.append(lease.group_id)
            raise Unavailable("environment: nobody serves it")
        return answer(lease)

    async with learner(inbox) as (address, service):

        async def connect() -> grpc.aio.Channel:
            return open_channel(address)

        running = asyncio.create_task(session(fails_once).run(connect))
        await until(lambda: inbox.counts().queued >= 8)
        assert failed[0] in {group.group_id for group in inbox.take(8, deadline_seconds=5)}
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
        await until(lambda: inbox.counts().queued >= 2)
        await service.finish("done")
        assert await asyncio.wait_for(running, 10) == "done"
        assert impostor.num_streams == 2
