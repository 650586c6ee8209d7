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

from rlserve.actors.learner.ingest import stream_service, worker_stream
from rlserve.actors.learner.ingest.frames import MAX_FRAME_BYTES, PART_BYTES
from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.ingest.stream_service import SERVICE_NAME, RolloutStreamService
from rlserve.actors.learner.ingest.worker_stream import MAX_REJECTED
from rlserve.errors import NotReady
from rlserve.records import RolloutGroup
from rlserve.records.lease import Lease
from rlserve.rpc import codec
from rlserve.rpc.channel import open_channel
from rlserve.rpc.codec import GroupLimits
from rlserve.rpc.options import ServerOptions
from rlserve.rpc.server import serving
from rlserve.v1 import rollout_stream_service_pb2 as pb
from rlserve.v1 import rollout_stream_service_pb2_grpc as pb_grpc
from tests.support.intake import answer, make_inbox
from tests.support.tiny_disk import fill, tiny_disk

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
        for lease in (*response.credit.leases, *response.acks.leases):
            self.leases[lease.group_id] = codec.lease_from_proto(lease)
        self.acks |= {ack.group_id: ack for ack in response.acks.acks}
        return response

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.next()

    async def leased(self, count: int) -> list[Lease]:
        await self.until(lambda: len(self.leases) >= count)
        return list(self.leases.values())

    async def send(self, group: RolloutGroup) -> pb.Ack:
        return await self.send_message(codec.group_to_proto(group))

    async def send_message(self, message: Any, *, nonce: str | None = None, part_bytes: int = PART_BYTES) -> pb.Ack:
        group_id, data = message.group_id, message.SerializeToString()
        self.acks.pop(group_id, None)
        if nonce is None:
            nonce = self.leases[group_id].nonce if group_id in self.leases else "guessed"
        for start in range(0, len(data), part_bytes):
            part = data[start : start + part_bytes]
            await self.write(group=pb.GroupPart(group_id=group_id, nonce=nonce, total_bytes=len(data), data=part))
        await self.until(lambda: group_id in self.acks)
        return self.acks[group_id]

    async def write(self, **frame: Any) -> None:
        await self._call.write(pb.StreamRequest(**frame))

    async def return_lease(self, lease: Lease, reason: str = "no server") -> None:
        await self.write(lease_return=pb.LeaseReturn(group_id=lease.group_id, nonce=lease.nonce, reason=reason))

    async def refused(self) -> grpc.aio.AioRpcError:
        """How the learner ends the stream."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.until(lambda: False)
        return caught.value

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
    path: Path,
    *,
    served: Callable[[], Mapping[str, int]] | None = None,
    max_group_bytes: int = 20_000,
    **changes: Any,
) -> AsyncIterator[Setting]:
    inbox = make_inbox(path / "groups.sqlite", limits=GroupLimits(vocab_size=100, max_tokens=64), **changes)
    service = RolloutStreamService(inbox, max_group_bytes=max_group_bytes, served=served)
    add = functools.partial(pb_grpc.add_RolloutStreamServiceServicer_to_server, service)
    options = ServerOptions(max_message_bytes=MAX_FRAME_BYTES, stop_grace_seconds=0.1)
    async with serving(add, service_names=[SERVICE_NAME], options=options) as server:
        yield Setting(inbox, service, server.address)
        await service.close()


@pytest.mark.parametrize(
    ("hello", "complaint"),
    [
        ({"worker_id": ""}, "hello.worker_id"),
        ({"worker_id": "w" * 257}, "hello.worker_id"),
        ({"worker_id": "w\n07:00:00 learner ERROR forged"}, "hello.worker_id: is 'w\\n07"),
        ({"worker_id": "\x1b[2J"}, "hello.worker_id"),
        ({"incarnation": "i" * 257}, "hello.incarnation"),
        ({"capacity": 4097}, "hello.capacity: is 4097"),
        ({"held": [pb.HeldLease(group_id="g", nonce="n" * 65)]}, "hello.held[0].nonce"),
        ({"held": [pb.HeldLease(group_id="g" * 257, nonce="n")]}, "hello.held[0].group_id"),
        ({"held": [pb.HeldLease(group_id="g", nonce="n")] * 4097}, "hello.held: has 4097"),
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
        worker._hello = pb.StreamRequest(lease_return=pb.LeaseReturn(group_id="x", nonce="n"))
        with pytest.raises(grpc.aio.AioRpcError, match="hello: is missing"):
            await worker.join()


async def test_a_stream_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_service, "HELLO_SECONDS", 0.2)
    async with learner(tmp_path) as setting:
        silent = Worker(setting.address, "w")
        answer = await silent.refused()
        assert answer.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "hello: none came within 0.2 s" in str(answer.details())


async def test_a_worker_with_weights_that_are_too_old_waits_for_newer_ones(tmp_path: Path) -> None:
    served = {"w": 2, "late": 4}
    async with learner(tmp_path, version=5, max_lag=2, served=lambda: served) as setting:
        late = await setting.worker("late", capacity=2)
        assert len(await late.leased(2)) == 2
        worker = await setting.worker(capacity=3)
        waiting = asyncio.create_task(worker.leased(3))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        stranger = await setting.worker("unknown-to-the-policy-service")
        asking = asyncio.create_task(stranger.leased(1))
        await asyncio.sleep(0.3)
        assert not asking.done()
        asking.cancel()
        served["w"] = 3
        setting.service.wake()
        assert len(await waiting) == 3


async def test_a_worker_that_confirmed_nothing_yet_waits_and_ends_no_run(tmp_path: Path) -> None:
    served: dict[str, int] = {}
    async with learner(tmp_path, version=1, max_lag=2, served=lambda: served) as setting:
        worker = await setting.worker(capacity=1)
        waiting = asyncio.create_task(worker.leased(1))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        served["w"] = 1
        setting.service.wake()
        assert len(await waiting) == 1


async def test_credits_are_bounded_by_capacity_and_renewed_by_acknowledged_groups(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker(capacity=3)
        leases = await worker.leased(3)
        await asyncio.sleep(0.3)
        assert len(leases) == 3
        ack = await worker.send(answer(leases[0]))
        assert ack.status == pb.Ack.STATUS_ACCEPTED
        assert setting.inbox.queue.counts().queued == 1
        assert len(await worker.leased(4)) == 4


async def test_a_group_sent_twice_is_counted_once(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker()
        [lease, *_] = await worker.leased(1)
        assert (await worker.send(answer(lease))).status == pb.Ack.STATUS_ACCEPTED
        before = setting.inbox.queue.counts()
        assert (await worker.send(answer(lease))).status == pb.Ack.STATUS_DUPLICATE
        assert setting.inbox.queue.counts() == before


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
        assert setting.inbox.queue.rejections() == {reason: 1}
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
        assert sum(setting.inbox.queue.rejections().values()) == 3
        assert setting.inbox.queue.counts().received == 0


async def test_a_group_in_parts_is_put_together(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker()
        for lease in (await worker.leased(3))[:3]:
            ack = await worker.send_message(codec.group_to_proto(answer(lease)), part_bytes=100)
            assert ack.status == pb.Ack.STATUS_ACCEPTED
        assert setting.inbox.queue.counts().queued == 3
        assert setting.service._budgets.large.held == setting.service._budgets.small.held == 0


async def test_groups_in_one_frame_are_taken_one_by_one(tmp_path: Path) -> None:
    async with learner(tmp_path, max_outstanding=8) as setting:
        worker = await setting.worker(capacity=8)
        leases = (await worker.leased(4))[:4]
        parts = [whole(lease) for lease in (*leases, leases[0])]
        await worker.write(group=parts[0], more_groups=parts[1:])
        await worker.until(lambda: len(worker.acks) == 4)
        await worker.until(lambda: worker.acks[leases[0].group_id].status == pb.Ack.STATUS_DUPLICATE)
        assert all(worker.acks[lease.group_id].status == pb.Ack.STATUS_ACCEPTED for lease in leases[1:])
        assert setting.inbox.queue.counts().queued == 4
        assert setting.service._budgets.large.held == setting.service._budgets.small.held == 0


async def test_acks_and_the_leases_that_follow_them_share_a_frame(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker(capacity=3)
        first, *more = [whole(lease) for lease in await worker.leased(3)]
        await worker.write(group=first, more_groups=more)
        frame = await worker.next()
        assert len(frame.acks.acks) == len(frame.acks.leases) == 3


def whole(lease: Lease) -> pb.GroupPart:
    data = codec.group_to_bytes(answer(lease))
    return pb.GroupPart(group_id=lease.group_id, nonce=lease.nonce, total_bytes=len(data), data=data)


def part(**changes: Any) -> pb.GroupPart:
    return pb.GroupPart(**{"group_id": "run/train/0", "nonce": "n", "total_bytes": 10, "data": b"12345", **changes})


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        ([{"group": part(total_bytes=20_001)}], "group.total_bytes: is 20001"),
        ([{"group": part(total_bytes=0)}], "group.total_bytes: is 0"),
        ([{"group": part(data=b"")}], "group.data: has 0 bytes"),
        ([{"group": part(data=b"1" * 11)}], "group.data: has 11 bytes of 10"),
        ([{"group": part()}, {"group": part(data=b"123456")}], "group.data: the parts"),
        ([{"group": part()}, {"group": part(group_id="run/train/1")}], "a part of another group"),
        ([{"group": part(group_id="")}], "group.group_id: is empty"),
        ([{"group": part(group_id="g" * 300)}], "group.group_id: has 300 characters"),
        ([{"group": part(group_id="g\x1b[2J")}], "group.group_id: is 'g\\x1b[2J'"),
        ([{"group": part(nonce="n" * 65)}], "group.nonce: has 65 characters"),
        ([{"group": part(data=b"1" * 10), "more_groups": [part(data=b"")]}], "more_groups[0].data: has 0 bytes"),
        ([{"group": part(), "more_groups": [part(group_id="run/train/1")]}], "a part of another group"),
        ([{"group": part(), "more_groups": [part()] * 64}], "more_groups: has 64 entries; give from 0 to 63"),
        ([{"progress": pb.Progress(), "more_groups": [part()]}], "more_groups: has 1 entries"),
        ([{"lease_return": pb.LeaseReturn(group_id="g", nonce="n", reason="r" * 501)}], "lease_return.reason"),
        ([{"lease_return": pb.LeaseReturn(group_id="", nonce="n")}], "lease_return.group_id"),
        ([{"progress": pb.Progress(leases=[pb.LeaseProgress(group_id="g", nonce="n", stage="\x1b")])}], "stage"),
        ([{"progress": pb.Progress(leases=[pb.LeaseProgress(group_id="g", nonce="n", stage="s" * 257)])}], "stage"),
        ([{"progress": pb.Progress(leases=[pb.LeaseProgress(group_id="g", nonce="n", tokens=2**63)])}], "tokens"),
        ([{"progress": pb.Progress(leases=[pb.LeaseProgress(group_id="g", nonce="n")] * 4097)}], "progress.leases"),
        ([{"hello": pb.Hello(worker_id="w")}], "second hello"),
        ([{}], "unknown"),
    ],
)
async def test_a_frame_that_breaks_a_bound_ends_its_stream_and_no_other(
    tmp_path: Path, sent: list[dict[str, Any]], complaint: str
) -> None:
    async with learner(tmp_path) as setting:
        bad, honest = await setting.worker("bad"), await setting.worker("honest")
        for frame in sent:
            await bad.write(**frame)
        error = await bad.refused()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert complaint in str(error.details())
        [other, *_] = await honest.leased(1)
        assert (await honest.send(answer(other, worker_id="honest"))).status == pb.Ack.STATUS_ACCEPTED
        assert setting.service._budgets.large.held == setting.service._budgets.small.held == 0


async def test_a_frame_of_more_data_than_a_part_may_have_ends_its_stream(tmp_path: Path) -> None:
    async with learner(tmp_path, max_group_bytes=PART_BYTES) as setting:
        worker = await setting.worker()
        half = part(total_bytes=PART_BYTES, data=b"1" * (PART_BYTES // 2))
        await worker.write(group=half, more_groups=[half, part(total_bytes=1, data=b"1")])
        assert f"bring the frame's data to {PART_BYTES + 1} bytes" in str((await worker.refused()).details())


async def test_an_oversized_frame_ends_the_senders_stream_and_no_other(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        bad, honest = await setting.worker("bad"), await setting.worker("honest")
        await bad.write(group=part(data=b"x" * (MAX_FRAME_BYTES + 1)))
        assert (await bad.refused()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        [other, *_] = await honest.leased(1)
        assert (await honest.send(answer(other, worker_id="honest"))).status == pb.Ack.STATUS_ACCEPTED


async def test_a_full_disk_ends_the_run_at_the_first_group_and_names_itself(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", megabytes=2) as disk:
        async with learner(disk) as setting:
            worker = await setting.worker()
            (lease, *_) = await worker.leased(1)
            fill(disk)
            with pytest.raises(grpc.aio.AioRpcError, match=r"the disk of groups\.sqlite is full; make room and resume"):
                await worker.send(answer(lease))
            with pytest.raises(NotReady, match=r"the disk of groups\.sqlite is full; make room and resume"):
                setting.inbox.queue.take(1, deadline_seconds=SECONDS)


async def test_large_groups_that_never_end_hold_up_no_small_one_and_end_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_stream, "GROUP_SECONDS", 2.0)
    async with learner(tmp_path) as setting:
        honest = await setting.worker("honest")
        [lease, *_] = await honest.leased(1)
        slow = [await setting.worker(f"slow-{i}", capacity=1) for i in range(6)]  # four fill the budget, two wait
        for worker in slow:
            await worker.write(group=part(total_bytes=20_000))
        while setting.service._budgets.large.held < 80_000:
            await asyncio.sleep(0.01)
        assert (await honest.send(answer(lease, worker_id="honest"))).status == pb.Ack.STATUS_ACCEPTED
        for worker in slow:
            error = await worker.refused()
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "5 of 20000 bytes" in str(error.details())
        assert setting.service._budgets.large.held == 0


async def test_a_worker_that_reads_no_acks_is_read_no_further(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        worker = await setting.worker()
        [lease, *_] = await worker.leased(1)
        sending = whole(lease)
        stream = setting.service._thread._streams["w"]
        stream.outbox.next = asyncio.Event().wait  # type: ignore[method-assign, assignment]  # its socket takes nothing
        await worker.write(group=sending)  # ends the call to next() that waits already
        for _ in range(3 * worker_stream.GROUPS_AHEAD):
            await worker.write(group=sending)
        await asyncio.sleep(0.5)
        assert len(stream.outbox._acks) <= worker_stream.GROUPS_AHEAD + 1


async def test_a_stream_of_which_nothing_can_be_believed_is_ended(tmp_path: Path) -> None:
    async with learner(tmp_path) as setting:
        bad = await setting.worker("bad")
        for number in range(MAX_REJECTED):
            await bad.write(group=part(group_id=f"run/train/{number}", data=b"1" * 10))
        error = await bad.refused()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "in a row were rejected" in str(error.details())
        assert setting.inbox.queue.rejections()["unknown_lease"] >= MAX_REJECTED
        assert setting.inbox.queue.counts().received == 0


async def test_another_workers_lease_can_be_neither_kept_nor_settled_nor_given_back(tmp_path: Path) -> None:
    async with learner(tmp_path, max_outstanding=3) as setting:
        holder = await setting.worker("holder")
        leases = await holder.leased(3)
        held = [pb.HeldLease(group_id=lease.group_id, nonce=nonce) for lease in leases for nonce in ("x", lease.nonce)]
        thief = await setting.worker("thief", held=held)
        while len(setting.inbox.workers()) < 2:
            await asyncio.sleep(0.01)
        assert [w.held for w in setting.inbox.workers()] == [3, 0]
        for nonce in ("x", leases[0].nonce):
            message = codec.group_to_proto(answer(leases[0], worker_id="thief"))
            ack = await thief.send_message(message, nonce=nonce)
            assert (ack.status, ack.reason) == (pb.Ack.STATUS_REJECTED, "unknown_lease")
            await thief.return_lease(replace(leases[1], nonce=nonce))
        assert (await holder.send(answer(leases[0], worker_id="holder"))).status == pb.Ack.STATUS_ACCEPTED
        assert setting.inbox.workers()[0].held == 2


async def test_progress_renews_a_lease_over_the_wire(tmp_path: Path) -> None:
    async with learner(tmp_path, lease_seconds=30.0) as setting:
        worker = await setting.worker()
        [lease, *_] = await worker.leased(1)
        entry = setting.inbox._leases._entries[lease.group_id]
        before, still = entry.deadline, setting.inbox.seconds_without_progress()
        await asyncio.sleep(0.05)
        report = pb.LeaseProgress(group_id=lease.group_id, nonce=lease.nonce, tokens=7, steps=2, stage="engine")
        await worker.write(progress=pb.Progress(leases=[report]))
        while entry.tokens != 7:
            await asyncio.sleep(0.01)
        assert entry.deadline > before and entry.stage == "engine"
        assert setting.inbox.seconds_without_progress() < still + 0.05


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
        await first.return_lease(lease)
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


async def test_a_service_can_be_closed_at_any_moment_also_while_it_is_woken(tmp_path: Path) -> None:
    for _ in range(50):
        service = RolloutStreamService(make_inbox(tmp_path / "g.sqlite"), max_group_bytes=2**20)
        await asyncio.sleep(0)
        service.wake()  # the wake and the end meet
        await asyncio.wait_for(service.close(), SECONDS)
