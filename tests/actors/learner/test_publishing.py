"""A version is published while the next step runs: which weights it holds, what waits for it, who gets an error."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.ranks import Rank
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.algorithms import registry
from rlserve.config.algorithms.policy_gradient import ReinforceConfig
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.engines.vllm.readback import read_checked
from rlserve.errors import LimitExceeded
from rlserve.records import PolicyVersion
from rlserve.weight_sync.publication import Publication
from rlserve.weight_sync.publisher import Publisher
from tests.support.models.learner_work import save_policy
from tests.support.processes.learner_rank import optimizer_batch, trainer_of
from tests.support.tiny_disk import tiny_disk


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> LearnerEngine:
    start = save_policy(tmp_path_factory.mktemp("start"))
    return LearnerEngine(str(start), LearnerConfig(dtype="float32", weight_decay=0.0), seed=0)


@pytest.fixture
def trainer(engine: LearnerEngine, tmp_path: Path) -> Iterator[Trainer]:
    trainer = trainer_of(Rank(engine=engine, algorithm=registry.create(ReinforceConfig())), tmp_path)
    yield trainer
    trainer.end_publishing()


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return dict(trainer.weights(torch.bfloat16))


def published(trainer: Trainer, version: int) -> dict[str, torch.Tensor]:
    kept = trainer.publisher.get(version)
    return read_checked(kept.policy, kept.path)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_weights_are_published_in_a_precision_of_their_own(engine: LearnerEngine, tmp_path: Path) -> None:
    rank = Rank(engine=engine, algorithm=registry.create(ReinforceConfig()))
    base = {"name": "r", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}
    for version, (publish_dtype, expected) in enumerate(((None, torch.bfloat16), ("float32", torch.float32)), start=1):
        learner = {"dtype": "float32", "publish_dtype": publish_dtype}
        config = RunConfig.model_validate({**base, "learner": learner, "rollout": {"dtype": "bfloat16"}})
        trainer = Trainer(config, RunPaths(tmp_path / str(version)), rank)
        trainer.publish(version)
        trainer.publishing.wait()
        assert {tensor.dtype for tensor in published(trainer, version).values()} == {expected}
        trainer.end_publishing()


def test_the_next_step_runs_before_the_version_is_announced(trainer: Trainer) -> None:
    """And may end before it: the copy is made, only the news has to wait."""
    news, told = threading.Event(), list[int]()
    trainer.publisher.subscribe(lambda policy: news.wait(60))
    before = weights(trainer)
    trainer.publish(1, lambda: told.append(1))
    assert trainer.step(optimizer_batch(0, 1), lr=1e-2).updates == 1
    assert not told
    news.set()
    trainer.publishing.wait()
    assert told == [1]
    assert_same(published(trainer, 1), before)
    assert not torch.equal(weights(trainer)["model.norm.weight"], before["model.norm.weight"])
    times = trainer.publishing.times
    assert 0 < times.copy_seconds <= times.seconds and times.digest_seconds <= times.seconds
    assert times.num_bytes == sum(t.nbytes for t in before.values())


def test_an_update_waits_until_the_copy_is_made(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Publication.add

    def slow(self: Publication, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        time.sleep(0.1)  # the step itself takes less than the copy of all tensors then
        add(self, name, tensor, dtype)

    monkeypatch.setattr(Publication, "add", slow)
    before = weights(trainer)
    trainer.publish(1)
    trainer.step(optimizer_batch(0, 1), lr=1e-2)
    trainer.publishing.wait()
    assert_same(published(trainer, 1), before)
    assert trainer.publishing.take_waited_seconds() > 0.1 and trainer.publishing.take_waited_seconds() == 0


def test_versions_are_announced_in_order_and_one_at_a_time(trainer: Trainer) -> None:
    announced: list[int] = []

    def slowly(policy: PolicyVersion) -> None:
        time.sleep(0.05)
        announced.append(policy.version)

    trainer.publisher.subscribe(slowly)
    for version in range(1, 5):
        trainer.publish(version)
        assert announced == list(range(1, version))
        trainer.step(optimizer_batch(version, 1), lr=1e-2)
    trainer.publishing.wait()
    assert announced == [1, 2, 3, 4]
    kept = trainer.publisher.get(4)
    assert kept.policy.parent_version == 3


def test_an_error_reaches_the_training_thread_with_its_cause(trainer: Trainer) -> None:
    def fail(policy: PolicyVersion) -> None:
        raise RuntimeError("the news cannot be told")

    end = trainer.publisher.subscribe(fail)
    trainer.publish(1)
    trainer.step(optimizer_batch(0, 1), lr=1e-2)  # an update waits for the copy, and always ends
    with pytest.raises(RuntimeError, match="cannot be told"):
        trainer.publishing.wait()
    with pytest.raises(RuntimeError, match="cannot be told"):
        trainer.publishing.check()
    with pytest.raises(RuntimeError, match="cannot be told"):
        trainer.publish(2)
    end()


def test_a_full_disk_is_told_where_the_version_begins(trainer: Trainer, tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "small", megabytes=1) as small:
        trainer.publisher = Publisher(small, run_id="r")
        with pytest.raises(LimitExceeded, match="version 1: need "):
            trainer.publisher.begin(1, size_bytes=2**21)
        trainer.publisher.close()
