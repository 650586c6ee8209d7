"""A worker's engine follows what a real learner's service publishes, whatever happens to the shared files."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.errors import Unavailable
from rlserve.v1 import policy_stream_service_pb2 as pb
from rlserve.weight_sync.service import PolicyService
from tests.support.weight_stream import Learner, following, weights


def cut(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.rename(path.with_suffix(".moved"))])
async def test_weights_come_over_the_stream_when_the_shared_file_is_gone(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    learner = Learner(tmp_path)
    async with learner.life():
        learner.publisher.subscribe(lambda policy: spoil(learner.publisher.get(policy.version).path))
        async with following(learner, tmp_path) as (engine, subscriber):
            for version in range(3):
                learner.publisher.publish(weights(version + 1), version)
                await learner.serves(version)
                assert torch.equal(engine.tensors["b"], weights(version + 1)[1][1])
            assert subscriber.counts.taken["shared_file"] == 0


async def test_a_file_that_was_cut_is_waited_out(tmp_path: Path) -> None:
    learner = Learner(tmp_path)
    async with learner.life(), following(learner, tmp_path) as (engine, _):
        learner.publisher.publish(weights(1), 0)
        await learner.serves(0)
        stop = learner.publisher.subscribe(lambda policy: cut(learner.publisher.get(policy.version).path))
        learner.publisher.publish(weights(2), 1)
        await asyncio.sleep(0.2)
        stop()
        assert engine.version == 0
        learner.publisher.publish(weights(3), 2)
        await learner.serves(2)
        assert torch.equal(engine.tensors["a"], weights(3)[0][1])


async def test_a_learner_that_came_back_hears_what_is_served_and_is_followed_also_back(tmp_path: Path) -> None:
    learner = Learner(tmp_path)
    async with following(learner, tmp_path) as (engine, _):
        async with learner.life():
            for version in range(4):
                learner.publisher.publish(weights(version), version)
            await learner.serves(3)
        async with learner.life():
            learner.publisher.publish(weights(3), 3)
            await learner.serves(3)
        async with learner.life():
            learner.publisher.publish(weights(7), 2)
            await learner.serves(2)
            assert torch.equal(engine.tensors["a"], weights(7)[0][1])


async def test_a_version_whose_fetch_failed_is_asked_for_again_without_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, fetch, failed = Learner(tmp_path), PolicyService.Fetch, list[int]()

    async def unsteady(self: PolicyService, request: pb.FetchRequest, context: Any) -> AsyncIterator[pb.FetchResponse]:
        if len(failed) < 2:
            failed.append(request.version)
            raise Unavailable("the learner is busy")
        async for response in fetch(self, request, context):
            yield response

    monkeypatch.setattr(PolicyService, "Fetch", unsteady)
    async with learner.life(), following(learner, tmp_path) as (engine, _):
        learner.publisher.publish(weights(5), 0)
        await learner.serves(0)
        assert failed == [0, 0] and torch.equal(engine.tensors["a"], weights(5)[0][1])
