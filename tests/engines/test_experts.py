"""A mixture of experts in real vLLM, whose weights come from the learner's side by each carrier."""

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
import torch

from rlserve.actors.learner.train.gather import in_place
from rlserve.actors.rollout.weight_follower import WeightFollower
from rlserve.engines.base import EngineOptions, SamplingChoice
from rlserve.engines.vllm.engine import VllmEngine
from rlserve.rpc.channel import open_channel
from rlserve.rpc.server import serving
from rlserve.v1 import policy_stream_service_pb2_grpc as pb_grpc
from rlserve.weight_sync.carriers import FULL_STREAM, carriers
from rlserve.weight_sync.publisher import Publisher
from rlserve.weight_sync.service import SERVICE_NAME, PolicyService
from rlserve.weight_sync.subscriber import Subscriber
from tests.support.models.tiny_policies import logprobs_under, perturbed, tiny_experts, weights_of

pytestmark = [pytest.mark.whole, pytest.mark.asyncio(loop_scope="module")]

CLOSE = 1e-3
WAYS = carriers("127.0.0.1")
BY_FILES = [way for way in WAYS if way.name != "device_memory"]
"""An engine that reloads takes no memory."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[VllmEngine, Any]]:
    directory = tmp_path_factory.mktemp("experts")
    model = tiny_experts(directory)
    engine = await VllmEngine.start(EngineOptions(model_path=str(directory), dtype="float32", max_length=512))
    yield engine, model
    await engine.close()


async def test_experts_are_served_as_they_were_published_by_each_carrier(
    engine: tuple[VllmEngine, Any], tmp_path: Path
) -> None:
    vllm, model = engine
    publisher = Publisher(tmp_path, run_id="r")
    service = PolicyService(publisher, chunk_bytes=2**20, carriers=WAYS)
    add = functools.partial(pb_grpc.add_PolicyStreamServiceServicer_to_server, service)
    fused, version = weights_of(model), 0
    assert await _error(vllm, model, fused) < CLOSE, "as vLLM loaded them"
    async with serving(add, service_names=[SERVICE_NAME]) as server:

        async def connect() -> grpc.aio.Channel:
            return open_channel(server.address)

        for way in BY_FILES:
            (tmp_path / way.name).mkdir()
            ways = [way, FULL_STREAM] if way is not FULL_STREAM else [way]
            subscriber = Subscriber(connect, worker_id=way.name, staging=tmp_path / way.name, carriers=ways)
            follower = WeightFollower(vllm, subscriber)
            following = asyncio.create_task(follower.run())
            for number in range(2):  # a delta starts from the first
                version += 1
                fused = perturbed(fused, seed=version, scale=0.2) if not number else _changed(fused)
                model.load_state_dict(fused, strict=False)
                policy = publisher.publish(in_place(model), version)
                async with asyncio.timeout(120):
                    while service.served().get(way.name) != version:
                        await asyncio.sleep(0.01)
                        assert not following.done(), following.result()
                assert vllm.version == version and follower.digest == policy.digest
                assert await _error(vllm, model, fused) < CLOSE, f"{way.name}, version {version}"
            assert subscriber.counts.taken[way.name] >= 1 and not subscriber.counts.refused
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await subscriber.close()
    publisher.close()


async def _error(vllm: VllmEngine, model: Any, weights: dict[str, torch.Tensor]) -> float:
    """Largest difference of sampled log-probabilities from those of transformers under these weights."""
    sampling = SamplingChoice(max_new_tokens=32)
    [sample] = await vllm.generate([1, 9, 4], n=1, sampling=sampling, seed=3, request_id="sample")
    return float(abs(logprobs_under(model, weights, [1, 9, 4], sample.token_ids) - sample.logprobs).max())


def _changed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A few elements of each expert."""
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    for name, tensor in changed.items():
        if "experts" in name:
            tensor[:, 0] += 0.3
    return changed
