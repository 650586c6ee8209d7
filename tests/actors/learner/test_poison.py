"""A batch whose loss or gradient is not finite: who is blamed, what is dropped, what is tried again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.learner.ingest.inbox import Inbox
from rlserve.actors.learner.poison import PoisonGuard
from rlserve.actors.learner.train.engine import LearnerEngine, StepReport
from rlserve.actors.learner.train.ranks import Rank
from rlserve.actors.learner.train.trainer import Trainer
from rlserve.algorithms import registry
from rlserve.algorithms.base import Algorithm
from rlserve.algorithms.batch import LossOutput
from rlserve.batching.collate import BatchLayout, collate, minibatches
from rlserve.config.algorithms.policy_gradient import ReinforceConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import LimitExceeded, PluginFailed
from rlserve.observability.events import read_json_lines
from rlserve.observability.warner import Warner
from rlserve.records import RolloutGroup
from tests.support.intake import answer, counts, lease_out, make_inbox, offer
from tests.support.models.learner_work import save_policy
from tests.support.processes.learner_rank import trainer_of

LAYOUT = BatchLayout(tokens_per_micro_batch=64, max_new_tokens=8)
ABSURD = 3e38
MARK = 1000.0
"""A reward that a spoiling algorithm takes offence at."""


@dataclass
class Site:
    """A trainer, an inbox and a guard between them, without the processes."""

    trainer: Trainer
    inbox: Inbox
    directory: Path
    guard: PoisonGuard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = PoisonGuard(self.trainer, LAYOUT, self.inbox.queue, Warner(self.directory / "events.jsonl"))

    def deliver(self, *rewards: Sequence[float]) -> list[RolloutGroup]:
        leases = lease_out(self.inbox)[: len(rewards)]
        for lease, pair in zip(leases, rewards, strict=True):
            assert offer(self.inbox, answer(lease, rewards=pair, worker_id="w"), believed=True).status == "accepted"
        return self.inbox.queue.take(len(rewards), deadline_seconds=0)

    def train(self, groups: Sequence[RolloutGroup], parts: int = 1) -> StepReport:
        batches = [collate(part, self.trainer.algorithm, LAYOUT, 0) for part in minibatches(groups, parts)]
        return self.trainer.train(batches, passes=1, lr=1e-3)

    def warnings(self) -> list[str]:
        return [str(e["message"]) for e in read_json_lines(self.directory / "events.jsonl")]


class Spoiling:
    """REINFORCE, unless ``spoils`` gives, for a micro-batch and its denominator, what to add to the loss."""

    def __init__(self, spoils: Callable[[Any, Any, Any], Any]) -> None:
        self._plain = registry.create(ReinforceConfig())
        self._spoils = spoils

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def loss(self, outputs: Any, batch: Any, denominator: Any) -> LossOutput:
        share = self._plain.loss(outputs, batch, denominator)
        return LossOutput(share.loss + self._spoils(outputs, batch, denominator), share.metrics)


def is_marked(batch: Any) -> Any:
    return (batch.advantages.abs() > MARK / 2).any()


def not_a_number(outputs: Any, batch: Any, denominator: Any) -> Any:
    return torch.where(is_marked(batch), torch.nan, 0.0)


def infinitely_steep(outputs: Any, batch: Any, denominator: Any) -> Any:
    return (outputs.logprobs.sum() * 0).clamp(min=0).sqrt() if is_marked(batch) else 0.0


def only_together(outputs: Any, batch: Any, denominator: Any) -> Any:
    return torch.nan if denominator.sequences > 2 else 0.0


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def engine(start: Path) -> LearnerEngine:
    return LearnerEngine(str(start), LearnerConfig(dtype="float32", weight_decay=0.0), seed=0)


@pytest.fixture
def make(engine: LearnerEngine, tmp_path: Path) -> Iterator[Callable[[Algorithm], Site]]:
    sites: list[Site] = []

    def make(algorithm: Algorithm) -> Site:
        trainer = trainer_of(Rank(engine=engine, algorithm=algorithm), tmp_path)
        sites.append(Site(trainer, make_inbox(tmp_path / "groups.sqlite", drops=lambda group: None), tmp_path))
        return sites[-1]

    yield make
    for site in sites:
        site.trainer.publisher.close()


CAUSES: list[tuple[Callable[[], Algorithm], float]] = [
    (lambda: registry.create(ReinforceConfig()), ABSURD),
    (lambda: registry.create(ReinforceConfig()), -1e30),
    (lambda: Spoiling(not_a_number), MARK),
    (lambda: Spoiling(infinitely_steep), MARK),
]


@pytest.mark.parametrize(("algorithm", "reward"), CAUSES)
def test_the_culprit_is_named_and_dropped_for_good_and_the_others_are_trained_on(
    make: Callable[[Algorithm], Site], tmp_path: Path, algorithm: Callable[[], Algorithm], reward: float
) -> None:
    site = make(algorithm())
    good, bad, other = groups = site.deliver((1.0, 0.0), (reward, 0.0), (0.0, 1.0))
    before = dict(site.trainer.weights(torch.float32))
    report = site.train(groups)
    assert (report.updates, report.skipped) == (0, True)
    site.guard.drop(1, groups, report)
    assert site.inbox.queue.counts() == counts(3, queued=2, not_finite=1)
    (warning,) = site.warnings()
    for told in (bad.group_id, "of w ", "environment arithmetic", "verifier exact", f"rewards {reward:g}, 0", "step 1"):
        assert told in warning
    assert good.group_id + " " not in warning
    again = site.inbox.queue.take(2, deadline_seconds=0)
    assert [group.group_id for group in again] == [good.group_id, other.group_id]
    assert all(t.equal(before[name]) for name, t in site.trainer.weights(torch.float32))
    assert site.train(again).updates == 1
    # A run that goes on further back does not meet it again.
    assert make_inbox(tmp_path / "groups.sqlite").queue.counts() == counts(3, queued=2, not_finite=1)


def test_where_no_single_group_is_to_blame_all_go_and_in_the_end_the_policy_is_blamed(
    make: Callable[[Algorithm], Site],
) -> None:
    site = make(Spoiling(only_together))
    for step in (1, 2):
        groups = site.deliver((1.0, 0.0), (0.0, 1.0))
        site.guard.drop(step, groups, site.train(groups))
    site.guard.stepped()
    for step in (3, 4):
        groups = site.deliver((1.0, 0.0), (0.0, 1.0))
        site.guard.drop(step, groups, site.train(groups))
    assert site.inbox.queue.counts() == counts(8, not_finite=8)
    groups = site.deliver((1.0, 0.0), (0.0, 1.0))
    with pytest.raises(LimitExceeded, match=r"3 batches in a row.*the policy itself has diverged.*learner\.lr"):
        site.guard.drop(5, groups, site.train(groups))
    assert "none of its 2 groups is at fault alone" in site.warnings()[0]


def test_a_verifier_that_poisons_everything_ends_the_run_by_name(make: Callable[[Algorithm], Site]) -> None:
    site = make(registry.create(ReinforceConfig()))
    with pytest.raises(LimitExceeded, match=r"Every group is at fault.*Fix the verifier 'exact'"):
        for step in range(1, 4):
            groups = site.deliver((ABSURD, 0.0), (0.0, ABSURD))
            site.guard.drop(step, groups, site.train(groups))
    assert site.inbox.queue.counts() == counts(6, not_finite=6)
    assert len(site.warnings()) == 1  # one cause


def test_a_policy_that_is_broken_is_blamed_and_no_group_is_lost(
    make: Callable[[Algorithm], Site], engine: LearnerEngine
) -> None:
    site = make(registry.create(ReinforceConfig()))
    groups = site.deliver((1.0, 0.0), (0.0, 1.0))
    weight = next(engine.module.parameters())
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        report = site.train(groups)
        with pytest.raises(LimitExceeded, match="the policy itself gives log-probabilities that are not finite"):
            site.guard.drop(1, groups, report)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert site.inbox.queue.counts() == counts(2, queued=2)


def test_a_batch_that_taught_nothing_leaves_the_algorithms_memory_alone(make: Callable[[Algorithm], Site]) -> None:
    algorithm = registry.create(ReinforceConfig(advantage="running_baseline", zero_variance="keep"))
    site = make(algorithm)
    site.train(site.deliver((1.0, 0.0)))
    memory = dict(site.trainer.algorithm_state())
    assert memory
    groups = site.deliver((1.0, 0.0), (ABSURD, 0.0))
    report = site.train(groups)
    assert site.trainer.algorithm_state() != memory
    site.trainer.restore_algorithm(memory)
    site.guard.drop(2, groups, report)
    assert site.trainer.algorithm_state() == memory


class Picky(Spoiling):
    """Raises on a reward that it takes offence at."""

    def __init__(self) -> None:
        super().__init__(not_a_number)

    def prepare(self, outcomes: Sequence[Any]) -> Any:
        if any(float(o.rewards.max()) == MARK for o in outcomes):
            raise ZeroDivisionError("no such reward")
        return self._plain.prepare(outcomes)


def test_a_group_that_the_algorithm_cannot_prepare_is_dropped_with_the_traceback(
    make: Callable[[Algorithm], Site],
) -> None:
    site = make(Picky())
    good, bad = groups = site.deliver((1.0, 0.0), (MARK, 0.0))
    with pytest.raises(ZeroDivisionError) as raised:
        site.train(groups)
    site.guard.drop_unready(1, groups, raised.value)
    assert site.inbox.queue.counts() == counts(2, queued=1, algorithm_failed=1)
    assert site.inbox.queue.take(1, deadline_seconds=0)[0].group_id == good.group_id
    (event,) = read_json_lines(site.directory / "events.jsonl")
    assert bad.group_id in event["message"] and "ZeroDivisionError: no such reward" in event["message"]
    assert "in prepare" in event["traceback"]
    bad_ones = site.deliver((MARK, 0.0), (MARK, 0.0))
    with pytest.raises(PluginFailed, match=r"cannot prepare any group \(ZeroDivisionError"):
        site.guard.drop_unready(2, bad_ones, raised.value)
    assert site.inbox.queue.counts() == counts(4, queued=3, algorithm_failed=1)


def test_of_a_step_made_in_part_the_spoiling_group_alone_is_dropped_with_the_step(
    make: Callable[[Algorithm], Site], tmp_path: Path
) -> None:
    site = make(Spoiling(not_a_number))
    good, bad, other = groups = site.deliver((1.0, 0.0), (MARK, 0.0), (0.0, 1.0))
    report = site.train(groups, parts=3)
    assert (report.updates, report.skipped) == (2, True)
    assert report.loss == report.loss  # of the updates that were made
    trained = site.guard.drop_part(1, groups, report)
    assert trained == [good.group_id, other.group_id]
    site.inbox.queue.commit(1, trained)
    assert site.inbox.queue.counts() == counts(3, consumed=2, not_finite=1)
    assert bad.group_id in site.warnings()[0]
    # Made again, the step is made of the same groups.
    assert make_inbox(tmp_path / "groups.sqlite").queue.counts() == counts(3, queued=3)
