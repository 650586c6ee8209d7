"""What each provider of a step's metrics gives, and that every name of it is declared."""

from collections.abc import Mapping

import pytest

from rlserve.actors.learner.leases.curriculum import Curriculum
from rlserve.actors.learner.measure.arrivals import Arrivals
from rlserve.actors.learner.reporter import count_metrics
from rlserve.actors.learner.step_metrics import Sync, step_metrics
from rlserve.actors.learner.train.engine import StepReport
from rlserve.algorithms import registry
from rlserve.batching.collate import BatchLayout, collate
from rlserve.config.algorithms.policy_gradient import GrpoConfig
from rlserve.config.tables.environment import EnvironmentConfig
from rlserve.observability.metrics import info
from rlserve.store.base import GroupCounts
from rlserve.weight_sync.publication import PublishTimes
from tests.support.groups import group

TIMES = PublishTimes(copy_seconds=0.5, digest_seconds=1.5, seconds=2.0, num_bytes=100)


def step(expert_load: float = 0.0) -> Mapping[str, float]:
    groups = [group((1.0, 0.0)), group((1.0, 1.0), index=1)]
    report = StepReport(
        loss=0.5,
        metrics={"loss": 0.5, "kl": 0.1},
        grad_norm=1.0,
        skipped=False,
        updates=1,
        skipped_steps=0,
        seconds=2.0,
        tokens=800.0,
        flops=3e12,
        peak_flops=2e12,
        peak_bytes=2.0**31,
        planned_bytes=2.5 * 2**30,
        ranks=4,
        expert_load=expert_load,
    )
    layout = BatchLayout(tokens_per_micro_batch=512, max_new_tokens=64, max_length=128)
    return step_metrics(
        groups=groups,
        batches=[collate([part], registry.create(GrpoConfig()), layout, 3) for part in groups],
        report=report,
        sync=Sync(reason="divergence", steps_since=0, reference_refreshed=False, seconds=0.25, times=TIMES),
        version=3,
        lr=1e-5,
        wait_seconds=1.5,
        batch_seconds=0.25,
    )


def arrivals() -> Mapping[str, float]:
    received = Arrivals()
    received.add(group((1.0, 0.0)))
    received.add(group((None, 1.0), index=1))
    return received.metrics()


def curriculum() -> Mapping[str, float]:
    found = Curriculum([EnvironmentConfig(name="arithmetic", levels=("train", "hard"))])
    found.observe(group((1.0, 0.0)))
    return found.metrics()


def counts() -> Mapping[str, float]:
    return count_metrics(GroupCounts(received=5, consumed=2, queued=1, dropped={"stale": 2}))


@pytest.mark.parametrize("provider", [step, arrivals, curriculum, counts])
def test_every_number_that_is_provided_is_declared(provider) -> None:
    names = provider()
    assert names
    for name in names:
        info(name)


def test_a_step_sums_over_its_batches_and_keeps_the_loss_out_of_the_algorithms_numbers() -> None:
    numbers = step()
    assert (numbers["batch/groups"], numbers["batch/sequences"]) == (2, 4)
    assert numbers["batch/sequences_without_gradient"] == 2
    assert numbers["algorithm/kl"] == 0.1 and "algorithm/loss" not in numbers
    assert (numbers["sync/by_divergence"], numbers["learner/publish_seconds"]) == (1, 0.25)
    publish = {name: numbers[f"publish/{name}"] for name in ("seconds", "copy_seconds", "digest_seconds")}
    assert publish == {"seconds": 2.0, "copy_seconds": 0.5, "digest_seconds": 1.5}
    assert numbers["publish/bytes_per_second"] == 50


def test_speed_is_that_of_one_gpu_and_mfu_of_all() -> None:
    numbers = step()
    assert numbers["learner/tokens_per_second_per_gpu"] == 100
    assert numbers["learner/mfu"] == pytest.approx(3e12 / (2.0 * 4 * 2e12))
    assert (numbers["learner/peak_gib"], numbers["learner/peak_over_plan"]) == (2, 0.8)
    assert "learner/expert_load" not in numbers and step(expert_load=2.5)["learner/expert_load"] == 2.5


def test_arrivals_are_of_one_interval_and_samples_of_the_whole_process() -> None:
    received = Arrivals()
    received.add(group((1.0, 0.0)))
    received.add(group((None, 1.0), index=1))
    first = received.metrics()
    assert first["received/reward_mean"] == first["received/accuracy"] == pytest.approx(2 / 3)
    assert first["received/reward_mean/arithmetic"] == pytest.approx(2 / 3)
    assert received.sampled_tokens > 0 and first["rollout/tokens_per_second"] > 0
    assert received.metrics() == {"received/samples": 4.0, "rollout/tokens_per_second": 0.0}
