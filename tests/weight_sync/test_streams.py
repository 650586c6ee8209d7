"""Weights over a real channel: every way they can come, and every way they can go wrong."""

import asyncio
import functools
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch

from rlserve.errors import RlserveError, Unavailable, UnknownName, WeightsMismatch
from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync import delta
from rlserve.weight_sync.carriers import CARRIERS, DELTA_STREAM, FULL_STREAM
from rlserve.weight_sync.own_directory import PREFIX
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Confirmation, Subscriber


def weights(seed: int, changed: int = 10**9) -> list[tuple[str, torch.Tensor]]:
    """Three tensors; only the first ``changed`` elements of each depend on the seed."""
    base, new = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    tensors = []
    for name, shape, dtype in (
        ("a", (64, 33), torch.float32),
        ("b", (1000,), torch.bfloat16),
        ("c", (7, 3, 2), torch.float16),
    ):
        tensor = torch.randn(shape, generator=base).to(dtype)
        flat = tensor.reshape(-1)
        count = min(changed, flat.numel())
        flat[:count] = torch.randn(count, generator=new).to(dtype)
        tensors.append((name, tensor))
    return tensors


class Setting:
    """A publisher that is served, and subscribers to it."""

    def __init__(self, directory: Path, publisher: Publisher, service: PolicyService, address: str) -> None:
        self.directory, self.publisher, self.service, self.address = directory, publisher, service, address

    def subscriber(self, *, shared: bool = False, host: str = "", chunk_seconds: float = 2) -> Subscriber:
        """Of a host of its own, unless that is named."""

        async def connect() -> grpc.aio.Channel:
            return open_channel(self.address)

        staging = self.directory / f"staging-{host or uuid.uuid4().hex}"
        staging.mkdir(exist_ok=True)
        carriers = CARRIERS if shared else (DELTA_STREAM, FULL_STREAM)
        return Subscriber(connect, worker_id="w0", staging=staging, chunk_seconds=chunk_seconds, carriers=carriers)


@asynccontextmanager
async def served(directory: Path, make: type[PolicyService] = PolicyService) -> AsyncIterator[Setting]:
    publisher = Publisher(directory, run_id="r")
    service = make(publisher, chunk_bytes=4096)
    add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, service)
    try:
        async with serving(add, service_names=[SERVICE_NAME]) as server:
            yield Setting(directory, publisher, service, server.address)
    finally:
        publisher.close()


def flat_bytes(tensors: Iterable[tuple[str, torch.Tensor]]) -> bytes:
    return b"".join(t.reshape(-1).view(torch.uint8).numpy().tobytes() for _, t in tensors)


async def test_a_sparse_change_travels_as_a_delta(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        subscriber = setting.subscriber()
        await subscriber.fetch(setting.publisher.publish(weights(1, changed=5), 0), held=None)
        path = await subscriber.fetch(setting.publisher.publish(weights(2, changed=5), 1), held=0)
        assert path.read_bytes() == flat_bytes(weights(2, changed=5))
        assert subscriber.counts.taken == {"full_stream": 1, "delta_stream": 1}


class DamagedChunks(PolicyService):
    """Flips one bit in the first answer, and tells the digest of the damaged chunk as if it were right."""

    damage = 1

    async def Fetch(self, request, context):  # type: ignore[no-untyped-def]
        from rlserve.weight_sync.manifest import chunk_digest

        async for response in super().Fetch(request, context):
            if response.HasField("chunk") and DamagedChunks.damage:
                DamagedChunks.damage -= 1
                data = bytearray(response.chunk.data)
                data[0] ^= 1
                chunk = pb.Chunk(index=response.chunk.index, data=bytes(data), digest=chunk_digest(bytes(data)))
                response = pb.FetchResponse(chunk=chunk)
            yield response


async def test_a_damaged_delta_is_refused_and_replaced_by_a_full_copy(tmp_path: Path) -> None:
    async with served(tmp_path, DamagedChunks) as setting:
        subscriber = setting.subscriber()
        DamagedChunks.damage = 0
        await subscriber.fetch(setting.publisher.publish(weights(1, changed=5), 0), held=None)
        DamagedChunks.damage = 1
        path = await subscriber.fetch(setting.publisher.publish(weights(2, changed=5), 1), held=0)
        assert path.read_bytes() == flat_bytes(weights(2, changed=5))
        assert (subscriber.counts.refused, subscriber.counts.taken["full_stream"]) == (1, 2)


async def test_a_damaged_full_copy_is_an_error_not_a_policy(tmp_path: Path) -> None:
    async with served(tmp_path, DamagedChunks) as setting:
        DamagedChunks.damage = 1
        with pytest.raises(WeightsMismatch):
            await setting.subscriber().fetch(setting.publisher.publish(weights(1), 0), held=None)


def cut(file: Path) -> None:
    with open(file, "r+b") as opened:
        opened.truncate(100)


def close_to_all(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    file.chmod(0)


def replace_by_a_link(file: Path) -> None:
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


@pytest.mark.parametrize("spoil", [Path.unlink, close_to_all, replace_by_a_link])
async def test_a_shared_file_that_cannot_be_used_is_replaced_by_the_stream(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    async with served(tmp_path) as setting:
        first = setting.publisher.publish(weights(1, changed=5), 0)
        spoil(setting.publisher.get(0).path)
        subscriber = setting.subscriber(shared=True)
        path = await subscriber.fetch(first, held=None)
        assert path.read_bytes() == flat_bytes(weights(1, changed=5))
        second = setting.publisher.publish(weights(2, changed=5), 1)
        spoil(setting.publisher.get(1).path)
        path = await subscriber.fetch(second, held=0)
        assert path.read_bytes() == flat_bytes(weights(2, changed=5))
        assert subscriber.counts.taken == {"full_stream": 1, "delta_stream": 1}
        await subscriber.close()


async def test_a_file_that_was_cut_costs_one_version_and_no_process(tmp_path: Path) -> None:
    """To read what was mapped beyond the cut would end the learner by SIGBUS."""
    async with served(tmp_path) as setting:
        policy = setting.publisher.publish([("a", torch.zeros(100_000))], 0)
        cut(setting.publisher.get(0).path)
        for shared in (True, False):
            with pytest.raises(Unavailable, match="was cut from 400000 to 100 bytes"):
                await setting.subscriber(shared=shared).fetch(policy, held=None)
        second = setting.publisher.publish([("a", torch.ones(100_000))], 1)
        path = await setting.subscriber(shared=True).fetch(second, held=None)
        assert path.read_bytes() == flat_bytes([("a", torch.ones(100_000))])


async def test_a_base_that_was_cut_gives_way_to_a_full_copy(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        subscriber = setting.subscriber()
        await subscriber.fetch(setting.publisher.publish(weights(1, changed=5), 0), held=None)
        cut(setting.publisher.get(0).path)
        path = await subscriber.fetch(setting.publisher.publish(weights(2, changed=5), 1), held=0)
        assert path.read_bytes() == flat_bytes(weights(2, changed=5))
        assert subscriber.counts.taken == {"full_stream": 2}


async def test_a_delta_is_made_once_for_all_and_sent_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece takes 0.4 s here, the whole longer than the deadline of 2 s, and no piece is made twice."""
    encode, made = delta.encode, list[int]()

    def slowly(*given: Any, **more: Any) -> Iterator[bytes]:
        for piece in encode(*given, **more):
            time.sleep(0.4)
            made.append(len(piece))
            yield piece

    monkeypatch.setattr(delta, "encode", slowly)
    monkeypatch.setattr(delta, "PIECE_BYTES", 1)
    first = [(f"t{i}", torch.zeros(4000)) for i in range(6)]
    second = [(name, tensor + torch.eye(4000)[i]) for i, (name, tensor) in enumerate(first)]
    async with served(tmp_path) as setting:
        workers = [setting.subscriber() for _ in range(4)]
        before = setting.publisher.publish(first, 0)
        for worker in workers:
            await worker.fetch(before, held=None)
        after = setting.publisher.publish(second, 1)
        started = time.monotonic()
        paths = await asyncio.gather(*(worker.fetch(after, held=0) for worker in workers))
        assert time.monotonic() - started > 2.4 and len(made) == 6
        for path, worker in zip(paths, workers, strict=True):
            assert path.read_bytes() == flat_bytes(second)
            assert worker.counts.taken == {"full_stream": 1, "delta_stream": 1}


async def test_a_worker_that_missed_versions_gets_their_differences_one_after_the_other(tmp_path: Path) -> None:
    """The learner keeps two versions, and the differences that it made for the worker that missed none."""
    async with served(tmp_path) as setting:
        steady, late, later = (setting.subscriber() for _ in range(3))
        versions = [[("a", torch.zeros(4000)), ("b", torch.ones(50))]]
        for version in range(6):
            if version:
                versions.append([(name, tensor.clone()) for name, tensor in versions[-1]])
                versions[-1][0][1][version * 7] = version
            policy = setting.publisher.publish(versions[-1], version)
            await steady.fetch(policy, held=version - 1 if version else None)
            if not version:
                await late.fetch(policy, held=None)
                await later.fetch(policy, held=None)
            if version == 3:
                path = await late.fetch(policy, held=0)
                assert path.read_bytes() == flat_bytes(versions[3])
        assert late.counts.taken == {"full_stream": 1, "delta_stream": 1}
        assert steady.counts.taken == {"full_stream": 1, "delta_stream": 5}
        path = await later.fetch(policy, held=0)
        assert path.read_bytes() == flat_bytes(versions[5])
        assert later.counts.taken == {"full_stream": 2}, "the chain is not kept that far back"


async def test_a_delta_that_turns_out_too_large_ends_early_and_a_full_copy_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "is_worthwhile", lambda *given: True)
    async with served(tmp_path) as setting:
        subscriber = setting.subscriber()
        first, second = ([("a", torch.randn(20_000))] for _ in range(2))
        await subscriber.fetch(setting.publisher.publish(first, 0), held=None)
        path = await subscriber.fetch(setting.publisher.publish(second, 1), held=0)
        assert path.read_bytes() == flat_bytes(second)
        assert subscriber.counts.taken == {"full_stream": 2} and subscriber.counts.refused == 1


async def test_a_slow_subscriber_sees_the_newest_version(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        setting.publisher.publish(weights(0), 0)
        versions = setting.subscriber().versions()
        assert (await anext(versions)).version == 0
        for version in (1, 2, 3):
            setting.publisher.publish(weights(version), version)
        seen = [(await asyncio.wait_for(anext(versions), 5)).version]
        while seen[-1] != 3:
            seen.append((await asyncio.wait_for(anext(versions), 5)).version)
        assert seen == sorted(set(seen))
        await versions.aclose()


async def test_a_version_that_is_gone_lists_those_that_are_held(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        old = setting.publisher.publish(weights(0), 0)
        for version in (1, 2):
            setting.publisher.publish(weights(version), version)
        with pytest.raises(UnknownName, match="held: 1, 2"):
            await setting.subscriber().fetch(old, held=None)


async def test_a_worker_that_serves_other_weights_is_told_and_counted(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        policy = setting.publisher.publish(weights(0), 0)
        subscriber = setting.subscriber()

        def confirmation(digest: str) -> Confirmation:
            return Confirmation(version=0, digest=digest, stall_seconds=0.01, update_seconds=0.1, running_sequences=3)

        with pytest.raises(WeightsMismatch, match="w0 serves 'abcd'"):
            await subscriber.confirm(confirmation("abcd"))
        assert setting.service.num_mismatches == 1 and setting.service.served() == {}
        await subscriber.confirm(confirmation(policy.digest))
        assert setting.service.served() == {"w0": 0}
        assert [r.stall_seconds for r in setting.service.reports()] == [0.01]


async def test_a_stream_that_breaks_is_opened_again(tmp_path: Path) -> None:
    addresses: list[str] = []

    async def connect() -> grpc.aio.Channel:
        return open_channel(addresses[-1])

    (tmp_path / "a").mkdir()
    async with served(tmp_path / "a") as first:
        addresses.append(first.address)
        first.publisher.publish(weights(0), 0)
        subscriber = Subscriber(connect, worker_id="w0", staging=tmp_path, chunk_seconds=2)
        versions = subscriber.versions()
        assert (await anext(versions)).version == 0
    with pytest.raises(RlserveError):
        await subscriber.fetch(first_policy(), held=None)
    (tmp_path / "b").mkdir()
    async with served(tmp_path / "b") as second:
        addresses.append(second.address)
        second.publisher.publish(weights(1), 7)
        assert (await asyncio.wait_for(anext(versions), 10)).version == 7
        await versions.aclose()


def first_policy():  # type: ignore[no-untyped-def]
    from rlserve.records import PolicyVersion
    from rlserve.weight_sync.manifest import manifest_digest, spec_of

    specs = tuple(spec_of(name, tensor)[0] for name, tensor in weights(0))
    return PolicyVersion(version=0, tensors=specs, digest=manifest_digest(specs))


async def test_nothing_is_left_when_the_publisher_closes(tmp_path: Path) -> None:
    async with served(tmp_path) as setting:
        for version in range(4):
            setting.publisher.publish(weights(version), version)
        assert len(list(tmp_path.glob(f"{PREFIX}-*/v*"))) == 3  # two are kept, the third is to be written next
    assert not list(tmp_path.iterdir())
