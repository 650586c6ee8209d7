"""Several updates from one batch, and a reference that follows: against updates made by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.checkpoints import Checkpoint, latest
from rlserve.actors.learner.train.deepspeed_setup import RankInfo
from rlserve.actors.learner.train.engine import LearnerEngine, StepReport
from rlserve.actors.learner.train.ranks import Rank
from rlserve.actors.learner.train.reference import Reference
from rlserve.actors.learner.train.trainer import combine
from rlserve.algorithms import registry
from rlserve.batching.collate import OptimizerBatch, minibatches
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.learner import LearnerConfig
from tests.support.models.learner_work import random_batch, save_policy
from tests.support.processes.learner_rank import LR, laid_out, trainer_of

CONFIG = LearnerConfig(dtype="float32", weight_decay=0.0)
ALGORITHM = GrpoConfig(importance="token_truncate", kl={"coefficient": 0.1})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("start"))


def rank_at(start: Path) -> Rank:
    engine = LearnerEngine(str(start), CONFIG, seed=0)
    return Rank(
        engine=engine, algorithm=registry.create(ALGORITHM), reference=Reference(str(start), CONFIG, RankInfo())
    )


def weights(rank: Rank) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in rank.engine.module.named_parameters()}


def with_proximal(batch: OptimizerBatch, logprobs: list[torch.Tensor]) -> OptimizerBatch:
    (share,) = batch.micro_batches
    parts = tuple(replace(b, proximal_logprobs=values) for b, values in zip(share, logprobs, strict=True))
    return replace(batch, micro_batches=(parts,))


def test_every_update_is_measured_against_the_policy_at_the_batchs_start(start: Path, tmp_path: Path) -> None:
    batches = [laid_out(random_batch(seed), 1) for seed in (1, 2)]
    trainer = trainer_of(rank := rank_at(start), tmp_path)
    report = trainer.train(batches, passes=2, lr=LR)
    found = weights(rank)
    by_hand = rank_at(start)
    other = trainer_of(by_hand, tmp_path)
    scored = [[o.logprobs for o in other.logprobs(b.micro_batches)[0]] for b in batches]
    ready = [with_proximal(b, values) for b, values in zip(batches, scored, strict=True)]
    reports = [other.step(b, lr=LR) for b in (*ready, *ready)]
    for name, expected in weights(by_hand).items():
        assert found[name].equal(expected), name
    assert report.loss == pytest.approx(sum(r.loss for r in reports) / 4)
    # In the first update the policy is the proximal one; in the second pass it no longer is.
    assert reports[0].metrics["clip_high"] == 0
    assert reports[3].metrics["clip_high"] > 0
    assert rank.engine.optimizer_steps == 4


def test_one_update_needs_no_scoring(start: Path, tmp_path: Path) -> None:
    batch = laid_out(random_batch(1), 1)
    one, other = rank_at(start), rank_at(start)
    trainer_of(one, tmp_path).train([batch], passes=1, lr=LR)
    trainer_of(other, tmp_path).step(batch, lr=LR)
    assert all(weights(one)[name].equal(value) for name, value in weights(other).items())


def test_groups_are_cut_evenly_and_none_is_lost() -> None:
    groups: list[Any] = list(range(10))
    assert [list(part) for part in minibatches(groups, 4)] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert [list(part) for part in minibatches(groups[:2], 4)] == [[0], [1]]
    assert minibatches(groups, 1) == [groups]


def test_a_refreshed_reference_is_the_policy_and_comes_back_from_a_checkpoint(start: Path, tmp_path: Path) -> None:
    rank = rank_at(start)
    trainer = trainer_of(rank, tmp_path)
    first: list[Checkpoint] = []
    trainer.save(1, {}, saved=first.append)
    trainer.wait()
    assert first[0].reference_path is None
    trainer.step(laid_out(random_batch(1), 1), lr=LR)
    trainer.refresh_reference()
    kept = weights(rank)
    trainer.step(laid_out(random_batch(2), 1), lr=LR)
    assert rank.reference is not None
    held = dict(rank.reference.module.named_parameters())
    assert all(held[name].equal(value) for name, value in kept.items())
    trainer.save(2, {})
    trainer.wait()
    found = latest(tmp_path / "checkpoints")
    assert found is not None and found.reference_path is not None
    again = Reference(str(found.reference_path), CONFIG, RankInfo())
    assert all(dict(again.module.named_parameters())[name].equal(value) for name, value in kept.items())
    batch = random_batch(3)
    (before,) = rank.reference.score([batch])
    (after,) = again.score([batch])
    assert before.reference_logprobs is not None and after.reference_logprobs is not None
    assert before.reference_logprobs.equal(after.reference_logprobs)


def test_reports_of_several_updates_are_one_of_those_that_were_made() -> None:
    def report(loss: float, skipped: bool = False) -> StepReport:
        return StepReport(
            loss=loss,
            metrics={"ess": loss},
            grad_norm=2 * loss,
            skipped=skipped,
            updates=int(not skipped),
            skipped_steps=int(skipped),
            seconds=1.0,
        )

    both = combine([report(1.0), report(3.0)])
    assert (both.loss, both.grad_norm, both.metrics, both.seconds) == (2.0, 4.0, {"ess": 2.0}, 2.0)
    assert (both.skipped, both.updates) == (False, 2)
    some = combine([report(1.0), report(float("nan"), skipped=True), report(3.0)])
    assert (some.loss, some.skipped, some.updates, some.seconds) == (2.0, True, 2, 3.0)
    none = combine([report(float("nan"), skipped=True)] * 2)
    assert (none.skipped, none.updates) == (True, 0)
