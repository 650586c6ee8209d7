"""What every weight carrier promises, over a real gRPC server. A new carrier is one more entry of ``CASES``."""

import asyncio
import functools
import multiprocessing
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import torch

from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.engines.vllm.readback import Merging
from rlserve.errors import DeadlineExceeded, Unavailable, UnknownName, WeightsMismatch
from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import DELTA_STREAM, DEVICE_MEMORY, FULL_STREAM, SHARED_FILE, Carrier, collective
from rlserve.weight_sync.carriers.broadcast_rank import start_fork_server
from rlserve.weight_sync.device_memory import device_name
from rlserve.weight_sync.manifest import check, chunk_digest
from rlserve.weight_sync.own_directory import PREFIX
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Subscriber
from tests.support.spool_carrier import spool_carrier
from tests.support.weight_stream import ReadingEngine


def flip_chunk(response: pb.FetchResponse, directory: Path) -> pb.FetchResponse:
    """One bit of a chunk is wrong, and the chunk's own digest agrees with it."""
    if not response.HasField("chunk"):
        return response
    data = bytearray(response.chunk.data)
    data[-1] ^= 1
    return pb.FetchResponse(
        chunk=pb.Chunk(index=response.chunk.index, data=bytes(data), digest=chunk_digest(bytes(data)))
    )


def flip_file(field: str, response: pb.FetchResponse, directory: Path) -> pb.FetchResponse:
    """One bit of the file that the header names is wrong; its size is right."""
    path = Path(getattr(response.header, field))
    damaged = directory / f"damaged-{path.name}"
    shutil.copyfile(path, damaged)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    header = pb.FetchHeader()
    header.CopyFrom(response.header)
    setattr(header, field, str(damaged))
    return pb.FetchResponse(header=header)


def flip_memory(response: pb.FetchResponse, directory: Path) -> pb.FetchResponse:
    """One bit of the memory that the header names is wrong, and of the file beside it."""
    path = Path(os.fsdecode(response.header.device_memory.handle))
    with open(path, "r+b") as memory:
        content = bytearray(memory.read())
        content[-1] ^= 1
        memory.seek(0)
        memory.write(content)
    return flip_file("shared_path", response, directory)


def flip_broadcast(response: pb.FetchResponse, directory: Path) -> pb.FetchResponse:
    """One bit of the file is wrong while it is broadcast, and the digest of its piece agrees with it."""
    [newest] = sorted(directory.glob(f"{PREFIX}-*/v*"), key=lambda path: path.stat().st_mtime_ns)[-1:]
    if response.HasField("header") or response.chunk.last:
        with open(newest, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            [last] = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
    return response


def lose_file(site: "Site") -> None:
    latest = site.publisher.latest()
    assert latest is not None
    latest.path.unlink()


def lose_base(site: "Site") -> None:
    """The learner no longer has the version that the worker holds, as after its own restart."""
    for version in list(site.publisher._versions)[:-1]:
        site.publisher._versions.pop(version)


def lose_spool(site: "Site") -> None:
    shutil.rmtree(site.spool)


def lose_address(site: "Site") -> None:
    """The learner's host left the network on which workers meet."""
    site.service._senders["collective"]._address = "192.0.2.1"  # type: ignore[attr-defined]
    site.service._senders["collective"]._give_up_group()  # type: ignore[attr-defined]


def keep(site: "Site") -> None:
    """The last carrier has nothing to lose."""


@dataclass(frozen=True)
class Case:
    """How one carrier is used, damaged and lost."""

    carrier: Callable[[Path], Carrier]
    """Made for a worker whose spool directory is given."""
    damage: Callable[[pb.FetchResponse, Path], pb.FetchResponse]
    """Spoils what the learner sends."""
    lose: Callable[["Site"], None]
    """Takes away what the carrier needs after a version was published."""


CASES = {
    "device_memory": Case(lambda spool: DEVICE_MEMORY, flip_memory, lose_file),
    "shared_file": Case(lambda spool: SHARED_FILE, functools.partial(flip_file, "shared_path"), lose_file),
    "collective": Case(lambda spool: collective("127.0.0.1"), flip_broadcast, lose_address),
    "delta_stream": Case(lambda spool: DELTA_STREAM, flip_chunk, lose_base),
    "full_stream": Case(lambda spool: FULL_STREAM, flip_chunk, keep),
    "spool": Case(spool_carrier, functools.partial(flip_file, "locator"), lose_spool),
}


class Tampering(PolicyService):
    """A real service whose answers can be damaged or withheld."""

    damage: Callable[[pb.FetchResponse], pb.FetchResponse] | None = None
    carrier_to_damage = ""
    silent = False

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.FetchResponse]:
        carrier = ""
        async for response in super().Fetch(request, context):
            carrier = response.header.carrier or carrier
            if self.silent:
                await asyncio.sleep(3600)
            yield self.damage(response) if self.damage is not None and carrier == self.carrier_to_damage else response


class Site:
    """A learner's service and one worker with the carrier under test, then the full stream."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.spool = directory / "spool"
        self.spool.mkdir()
        self.carrier = case.carrier(self.spool)
        self.is_last = self.carrier is FULL_STREAM
        self.carriers: Sequence[Carrier] = [self.carrier] if self.is_last else [self.carrier, FULL_STREAM]
        self.publisher = Publisher(directory, run_id="r")
        self.service: Tampering
        self.address = ""
        self.subscriber: Subscriber
        self.version = -1

    @property
    def taken(self) -> dict[str, int]:
        return dict(self.subscriber.counts.taken)

    def publish(self, seed: int) -> Any:
        """A version that differs from the one before in a few elements: small enough for a delta."""
        self.version += 1
        return self.publisher.publish(weights(seed), self.version)

    async def hold_one(self) -> int:
        """Give the worker a first version over the stream, which a delta can start from; returns its number."""
        policy = self.publish(100)
        await self.subscriber.fetch(policy, held=None, last_resort=True)
        self.subscriber.counts.taken.clear()
        return int(policy.version)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """Ranks of a broadcast come from it: that torch is imported there is not part of any deadline here."""
    start_fork_server()
    process = multiprocessing.get_context("forkserver").Process(target=int)
    process.start()
    process.join()


@asynccontextmanager
async def running(case: Case, directory: Path) -> AsyncIterator[Site]:
    site = Site(case, directory)
    site.service = Tampering(site.publisher, chunk_bytes=2**16, carriers=site.carriers)
    site.service.carrier_to_damage = site.carrier.name
    add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, site.service)

    async def connect() -> grpc.aio.Channel:
        return open_channel(site.address)

    (directory / "staging").mkdir()
    site.subscriber = Subscriber(
        connect, worker_id="w0", staging=directory / "staging", chunk_seconds=2, carriers=site.carriers
    )
    if site.carrier is DEVICE_MEMORY:
        # Memory of the host stands in for that of a GPU: the learner makes it at the first request.
        site.subscriber.take_memory_of(device_name(torch.device("cpu")))
        site.publisher._memory._wanted = device_name(torch.device("cpu"))
    try:
        async with serving(add, service_names=[SERVICE_NAME]) as server:
            site.address = server.address
            yield site
    finally:
        await site.subscriber.close()
        site.publisher.close()


def weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    """Three dtypes, with the values whose bits a comparison of numbers would lose; a few depend on the seed."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        (name, torch.randn(shape, generator=generator).to(dtype))
        for name, shape, dtype in (
            ("a", (256, 331), torch.float32),
            ("b", (5000,), torch.bfloat16),
            ("c", (7, 3, 2), torch.float16),
        )
    ]
    for _, tensor in tensors:
        flat = tensor.view(-1)
        flat[:3] = torch.tensor([float("nan"), -0.0, float("inf")]).to(tensor.dtype)
        flat[5] = float(seed)
    return tensors


def flat_bytes(tensors: list[tuple[str, torch.Tensor]]) -> bytes:
    return b"".join(t.reshape(-1).view(torch.uint8).numpy().tobytes() for _, t in tensors)


async def test_what_arrives_is_what_was_published_bit_for_bit(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        for seed in (1, 2, 3):
            policy = site.publish(seed)
            path = await site.subscriber.fetch(policy, held=held)
            assert path.read_bytes() == flat_bytes(weights(seed))
            check(policy, path.read_bytes())
            held = policy.version
        assert site.taken == {site.carrier.name: 3} and site.subscriber.counts.refused == 0


async def test_adapters_arrive_and_are_merged_by_every_carrier(case: Case, tmp_path: Path) -> None:
    base = {"model.layers.0.q.weight": torch.randn(96, 64, generator=torch.Generator().manual_seed(9))}
    name = "base_model.model.model.layers.0.q.lora_{}.weight"
    a, b = torch.randn(4, 64), torch.randn(96, 4)
    async with running(case, tmp_path) as site:
        held = None
        for version in range(3):
            a[0, 0] += 1  # one element: small enough for a delta
            policy = site.publisher.publish([(name.format("A"), a), (name.format("B"), b)], version)
            path = await site.subscriber.fetch(policy, held=held, last_resort=held is None)
            tensors, _ = Merging(base, 2.0).version(policy, np.fromfile(path, dtype=np.uint8))
            expected = base["model.layers.0.q.weight"].double() + 2.0 * b.double() @ a.double()
            torch.testing.assert_close(tensors["model.layers.0.q.weight"].double(), expected, atol=1e-5, rtol=0)
            held = policy.version
        assert site.taken[site.carrier.name] >= 2


async def test_damaged_bytes_are_refused_before_they_are_served(case: Case, tmp_path: Path) -> None:
    """By the receiver or, where it leaves that to the engine, by the engine: a full copy is served instead."""
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        site.service.damage = functools.partial(case.damage, directory=tmp_path)
        policy = site.publish(1)
        if site.is_last:
            with pytest.raises(WeightsMismatch, match="differs from what was published"):
                await site.subscriber.fetch(policy, held=held)
            return
        engine = ReadingEngine()
        follower = WeightFollower(engine, site.subscriber)  # type: ignore[arg-type]
        engine.version, follower.num_updates = held, 1
        following = asyncio.create_task(follower.run())
        await asyncio.wait_for(follower.caught_up(), 20)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert engine.version == policy.version and follower.digest == policy.digest
        assert site.taken["full_stream"] == 1, "the damaged copy was not served"


async def test_a_version_that_is_gone_lists_those_that_are_held(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        old = site.publish(0)
        for seed in (1, 2):
            site.publish(seed)
        with pytest.raises(UnknownName, match="held: 1, 2"):
            await site.subscriber.fetch(old, held=None)


async def test_a_learner_that_does_not_answer_is_named_at_the_deadline(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        policy = site.publish(1)
        site.service.silent = True
        with pytest.raises(DeadlineExceeded, match=f"learner: sent no part of version {policy.version} for 2 s"):
            await site.subscriber.fetch(policy, held=held)


async def test_a_learner_that_is_gone_is_named(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        policy = site.publish(1)
    with pytest.raises(Unavailable, match=f"learner .weights of version {policy.version}."):
        await site.subscriber.fetch(policy, held=held)


async def test_a_carrier_that_cannot_gives_way_to_the_next(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        policy = site.publish(1)
        case.lose(site)
        path = await site.subscriber.fetch(policy, held=held)
        assert path.read_bytes() == flat_bytes(weights(1))
        assert site.taken == {"full_stream": 1}


async def test_the_last_resort_is_a_full_copy_by_the_last_carrier(case: Case, tmp_path: Path) -> None:
    async with running(case, tmp_path) as site:
        held = await site.hold_one()
        path = await site.subscriber.fetch(site.publish(1), held=held, last_resort=True)
        assert path.read_bytes() == flat_bytes(weights(1))
        assert site.taken == {"full_stream": 1}


async def test_a_caller_that_asks_for_the_stream_is_not_sent_to_a_file(tmp_path: Path) -> None:
    """``by_stream`` is for callers that always give their host."""
    from rlserve.weight_sync.host import host_id

    async with running(CASES["shared_file"], tmp_path) as site:
        site.publish(1)
        async with open_channel(site.address) as channel:
            stub = pb_grpc.PolicyStreamServiceStub(channel)
            for by_stream, carrier in ((False, "shared_file"), (True, "full_stream")):
                request = pb.FetchRequest(worker_id="w1", version=0, host_id=host_id(), by_stream=by_stream)
                assert (await anext(aiter(stub.Fetch(request)))).header.carrier == carrier
