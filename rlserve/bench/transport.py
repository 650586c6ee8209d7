"""Weights from publisher to subscriber over a real channel: by shared file, delta and full copy."""

import asyncio
import functools
import tempfile
import time
from pathlib import Path

import grpc.aio
import torch

from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync import delta
from rlserve.weight_sync.carriers import CARRIERS, DELTA_STREAM, FULL_STREAM
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Subscriber

STREAMS = (DELTA_STREAM, FULL_STREAM)
REPEATS = 3  # the least of them counts: anything that disturbs a copy makes it longer
CHANGED = 0.02  # share of elements: at a small learning rate, most updates vanish in bfloat16's rounding


def measure(num_parameters: int = 5_000_000) -> dict[str, float]:
    """Milliseconds to publish a bfloat16 version and to fetch it each way, and the size of a delta.

    The delta is of a version in which 2% of the elements changed, as at small learning rates. Ratios refer to a plain
    copy of the bytes in memory, measured in the same run.
    """
    return asyncio.run(_measure(num_parameters))


async def _measure(num_parameters: int) -> dict[str, float]:
    weights = torch.randn(num_parameters).to(torch.bfloat16)
    numbers = {"megabytes": weights.numel() * 2 / 2**20, "copy_ms": _copy_ms(weights)}
    with tempfile.TemporaryDirectory() as directory:
        publisher = Publisher(Path(directory), run_id="bench")
        service = PolicyService(publisher, chunk_bytes=2**20)
        add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, service)
        async with serving(add, service_names=[SERVICE_NAME]) as server:
            for way in ("shared", "full", "delta"):
                numbers |= await _fetch(way, publisher, server.address, weights, Path(directory))
        publisher.close()
    numbers["shared_over_copy"] = numbers["shared_fetch_ms"] / numbers["copy_ms"]
    numbers["full_over_copy"] = numbers["full_fetch_ms"] / numbers["copy_ms"]
    numbers["delta_over_full_bytes"] = numbers["delta_megabytes"] / numbers["megabytes"]
    return numbers


async def _fetch(
    way: str, publisher: Publisher, address: str, weights: torch.Tensor, directory: Path
) -> dict[str, float]:
    async def connect() -> grpc.aio.Channel:
        return open_channel(address)

    subscriber = Subscriber(
        connect, worker_id="bench", staging=directory, carriers=CARRIERS if way == "shared" else STREAMS
    )
    latest = publisher.latest()
    version = latest.policy.version + 1 if latest else 0
    held = publisher.publish([("weights", weights)], version)
    await subscriber.fetch(held, held=None)  # not measured: it opens the connection, and a delta needs a base
    published, fetched, size = [], [], 0
    for step in range(1, REPEATS + 1):
        weights = _changed(weights, 1.0 if way != "delta" else CHANGED, seed=step)
        started = time.perf_counter()
        policy = publisher.publish([("weights", weights)], version + step)
        published.append(time.perf_counter() - started)
        started = time.perf_counter()
        await subscriber.fetch(policy, held=version + step - 1)
        fetched.append(time.perf_counter() - started)
        before, after = publisher.get(version + step - 1), publisher.get(version + step)
        size = sum(map(len, delta.encode(before.flat, after.flat, policy.tensors, max_share=2.0)))
    await subscriber.close()
    numbers = {f"{way}_publish_ms": 1000 * min(published), f"{way}_fetch_ms": 1000 * min(fetched)}
    return numbers | ({"delta_megabytes": size / 2**20} if way == "delta" else {})


def _changed(weights: torch.Tensor, share: float, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    touched = torch.rand(weights.shape, generator=generator) < share
    return torch.where(touched, weights * 1.01, weights)


def _copy_ms(weights: torch.Tensor) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        weights.clone()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)
