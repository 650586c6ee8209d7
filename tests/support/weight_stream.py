"""A learner's policy stream and a worker's engine that follows it, over a real channel.

vLLM is left out: the engine here reads and checks each file as vLLM's worker does, and serves it.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import torch

from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.engines.base import SwapReport
from rlserve.engines.vllm.readback import check_tensors, digest_of, read_checked, tensors_in
from rlserve.errors import WeightsMismatch
from rlserve.records import PolicyVersion
from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.device_memory import DeviceMemory, Mappings
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Subscriber


class ReadingEngine:
    def __init__(self) -> None:
        self.version = 0
        self.tensors: dict[str, torch.Tensor] = {}
        self.mappings = Mappings(torch.device("cpu"))

    async def stage(self, policy: PolicyVersion, path: Path, memory: DeviceMemory | None = None) -> None:
        if memory is not None:
            self.staged = tensors_in(policy, self.mappings.content(memory).numpy())
            with contextlib.suppress(WeightsMismatch):
                check_tensors(policy, self.staged)
                return
        self.staged = read_checked(policy, path)

    async def swap(self, policy: PolicyVersion) -> SwapReport:
        self.version, self.tensors = policy.version, self.staged
        digest = digest_of(policy.tensors, self.tensors)
        return SwapReport(
            version=self.version, digest=digest, stall_seconds=0, held_seconds=0, running_sequences=0, stage_seconds=0
        )


class Learner:
    """A publisher and its service; ``stop`` and ``start`` make it a new process's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.publisher: Publisher
        self.service: PolicyService
        self.address = "127.0.0.1:0"

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        self.publisher = Publisher(self.directory, run_id="r")
        self.service = PolicyService(self.publisher, chunk_bytes=2**16)
        add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, self.service)
        try:
            async with serving(add, address=self.address, service_names=[SERVICE_NAME]) as server:
                self.address = server.address
                yield
        finally:
            self.publisher.close()

    async def serves(self, version: int) -> None:
        async with asyncio.timeout(20):
            while self.service.served().get("w0") != version:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def following(learner: Learner, directory: Path) -> AsyncIterator[tuple[ReadingEngine, Subscriber]]:
    async def connect() -> grpc.aio.Channel:
        return open_channel(learner.address)

    engine = ReadingEngine()
    subscriber = Subscriber(connect, worker_id="w0", staging=directory, chunk_seconds=10)
    task = asyncio.create_task(WeightFollower(engine, subscriber).run())  # type: ignore[arg-type]
    try:
        yield engine, subscriber
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await subscriber.close()


def weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((100, 10), float(seed))), ("b", torch.arange(1000) * float(seed))]
