"""The rollout stream over a real channel: credits, acks, and what bad input gets."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from intake import answer, make_inbox

from rlserve.actors.learner.inbox import Inbox
from rlserve.actors.learner.stream_service import SERVICE_NAME, RolloutStreamService
from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.channel import open_channel
from rlserve.rpc.codec import GroupLimits
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc

SECONDS = 10.0


class Worker:
    """One scripted worker on its own stream."""

    def __init__(self, address: str, name: str, **hello: Any) -> None:
        fields = {"worker_id": name, "run_id": "run", "tokenizer_fingerprint": "tok", "capacity": 3, **hello}
        self.leases: dict[str, Lease] = {}
        self.acks: dict[str, pb.Ack] = {}
        self._channel = open_channel(address)
        self._call = pb_grpc.RolloutStreamServiceStub(self._channel).Stream()
        self._hello = pb.StreamRequest(hello=pb.Hello(**fields))

    async def join(self) -> "Worker":
        await self._call.write(self._hello)
        assert (await self.next()).WhichOneof("frame") == "welcome"
        return self

    async def next(self) -> pb.StreamResponse:
        response = await asyncio.wait_for(self._call.read(), SECONDS)
        if response is grpc.aio.EOF:
            raise grpc.aio.AioRpcError(await self._call.code(), None, None, await self._call.details())  # type: ignore[arg-type]
        for lease in response.credit.leases:
            self.leases[lease.group_id] = codec.lease_from_proto(lease)
        if response.HasField("ack"):
            self.acks[response.ack.group_id] = response.ack
        return response

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.next()

    async def leased(self, count: int) -> list[Lease]:
        await self.until(lambda: len(self.leases) >= count)
        return list(self.leases.values())

    async def send(self, group: RolloutGroup) -> pb.Ack:
        return await self.send_message(codec.group_to_proto(group))

    async def send_message(self, message: Any) -> pb.Ack:
        self.acks.pop(message.group_id, None)
        await self._call.write(pb.StreamRequest(group=message))
        await self.until(lambda: message.group_id in self.acks)
        return self.acks[message.group_id]

    async def give_back(self, group_id: str) -> None:
        await self._call.write(pb.StreamRequest(lease_return=pb.LeaseReturn(group_id=group_id, reason="no server")))

    async def leave(self) -> None:
        self._call.cancel()
        await self._channel.close()


class Setting:
    def __init__(self, inbox: Inbox, service: RolloutStreamService, address: str) -> None:
        self.inbox, self.service, self.address = inbox, service, address

    async def worker(self, name: str = "w", **hello: Any) -> Worker:
        return await Worker(self.address, name, **hello).join()


@asynccontextmanager
async def learner(
    path: Path, *, served: Callable[[], Mapping[str, int]] = dict, **changes: Any
) -> AsyncIterator[Setting]:
    inbox = make_inbox(path / "groups.sqlite", **changes)
    service = RolloutStreamService(
        inbox, limits=GroupLimits(vocab_size=100, max_tokens=64), max_message_bytes=20_000, served=served
    )
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, service)
    options = ServerOptions(max_message_bytes=20_000, stop_grace_seconds=0.1)
    async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
        yield Setting(inbox, service, server.address)
        await service.close()


@pytest.mark.parametrize(
    ("hello", "complaint"),
    [
        ({"worker_id": ""}, "hello.worker_id"),
        ({"run_id": "other"}, "hello.run_id: is 'other'"),
        ({"tokenizer_fingerprint": "x"}, "hello.tokenizer_fingerprint"),
        ({"capacity": 0}, "hello.capacity: is 0"),
    ],
)
async def test_a_wrong_hello_is_refused_by_field(tmp_path: Path, hello: dict[str, Any], complaint: str) -> None:
    async with learner(tmp_path) as setting:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await setting.worker(**hello)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert complaint in str(caught.value.details())


async def test_a_stream_without_hello_is_refused(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = Worker(setting.address, "w")
        worker._hello = pb.StreamRequest(lease_return=pb.LeaseReturn(group_id="x"))
        with pytest.raises(grpc.aio.AioRpcError, match="hello: is missing"):
            await worker.join()


async def test_a_worker_with_weights_that_are_too_old_waits_for_newer_ones(tmp_path: Path) -> None:
    served = {"w": 2, "late": 4}
    async with learner(tmp_path, version=5, max_lag=2, served=lambda: served) as setting:
        late = await setting.worker("late", capacity=2)
        assert len(await late.leased(2)) == 2
        worker = await setting.worker(capacity=3)
        waiting = asyncio.create_task(worker.leased(3))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        served["w"] = 3
        setting.service.wake()
        assert len(await waiting) == 3


async def test_credits_are_bounded_by_capacity_and_renewed_by_acknowledged_groups(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker(capacity=3)
        leases = await worker.leased(3)
        await asyncio.sleep(0.3)
        assert len(leases) == 3
        ack = await worker.send(answer(leases[0]))
        assert ack.status == pb.Ack.STATUS_ACCEPTED
        assert setting.inbox.counts().queued == 1
        assert len(await worker.leased(4)) == 4


async def test_a_group_sent_twice_is_counted_once(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker()
        [lease, *_] = await worker.leased(1)
        assert (await worker.send(answer(lease))).status == pb.Ack.STATUS_ACCEPTED
        before = setting.inbox.counts()
        assert (await worker.send(answer(lease))).status == pb.Ack.STATUS_DUPLICATE
        assert setting.inbox.counts() == before


def nan_logprob(message: Any) -> None:
    message.trajectories[0].behavior_logprobs[0] = float("nan")


def one_logprob_too_many(message: Any) -> None:
    message.trajectories[0].behavior_logprobs.append(-1.0)


def token_beyond_the_vocabulary(message: Any) -> None:
    message.trajectories[0].token_ids[0] = 100


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (nan_logprob, "nan_logprob"),
        (one_logprob_too_many, "wrong_length"),
        (token_beyond_the_vocabulary, "bad_token"),
    ],
)
async def test_a_malformed_group_gets_a_reason_and_a_counter_and_harms_nobody(
    tmp_path: Path, spoil: Callable[[Any], None], reason: str
) -> None:
    async with learner(tmp_path) as setting:
        bad, honest = await setting.worker("bad"), await setting.worker("honest")
        [lease, *_] = await bad.leased(1)
        message = codec.group_to_proto(answer(lease, worker_id="bad"))
        spoil(message)
        ack = await bad.send_message(message)
        assert (ack.status, ack.reason) == (pb.Ack.STATUS_REJECTED, reason)
        assert "trajectories[0]" in ack.message
        assert setting.inbox.rejections == {reason: 1}
        [other, *_] = await honest.leased(1)
        assert (await honest.send(answer(other, worker_id="honest"))).status == pb.Ack.STATUS_ACCEPTED


async def test_an_unknown_version_environment_or_lease_is_rejected(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker()
        first, second, third = (await worker.leased(3))[:3]
        future = await worker.send(answer(first, spans=[(7, 4)]))
        assert (future.status, future.reason) == (pb.Ack.STATUS_REJECTED, "unknown_version")
        other = answer(second)
        elsewhere = await worker.send(replace(other, task=replace(other.task, environment="elsewhere")))
        assert elsewhere.status == pb.Ack.STATUS_REJECTED and "environment" in elsewhere.message
        stranger = await worker.send(replace(answer(third), group_id="run/train/999"))
        assert (stranger.status, stranger.reason) == (pb.Ack.STATUS_REJECTED, "unknown_lease")
        assert sum(setting.inbox.rejections.values()) == 3
        assert setting.inbox.counts().received == 0


async def test_an_oversized_message_ends_the_senders_stream_and_no_other(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        bad, honest = await setting.worker("bad"), await setting.worker("honest")
        [lease, *_] = await bad.leased(1)
        huge = codec.group_to_proto(answer(lease))
        huge.trajectories[0].completion = "x" * 100_000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bad.send_message(huge)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        [other, *_] = await honest.leased(1)
        assert (await honest.send(answer(other, worker_id="honest"))).status == pb.Ack.STATUS_ACCEPTED


async def test_the_leases_of_a_dead_worker_go_to_another_under_the_same_ids(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        dead = await setting.worker("dead", capacity=2)
        orphaned = {lease.group_id for lease in await dead.leased(2)}
        await dead.leave()
        heir = await setting.worker("heir", capacity=8)
        await heir.until(lambda: orphaned <= set(heir.leases))


async def test_a_lease_that_is_given_back_is_worked_on_again(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        first, second = await setting.worker("first", capacity=1), await setting.worker("second", capacity=8)
        [lease] = await first.leased(1)
        await first.give_back(lease.group_id)
        await second.until(lambda: lease.group_id in second.leases)


async def test_everybody_is_told_when_the_run_is_over_also_who_comes_late(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        early = await setting.worker("early")
        await setting.service.finish("done")
        frames = [await early.next()]
        while frames[-1].WhichOneof("frame") != "goodbye":
            frames.append(await early.next())
        late = await setting.worker("late")
        assert (await late.next()).goodbye.reason == "done"
