import inspect
import math
import re

import pytest
import torch
import transformers
from pydantic import ValidationError

from rlserve.actors.learner.train.schedule import learning_rates, why_sync
from rlserve.config.tables.learner import SCHEDULES, LearnerConfig
from rlserve.config.tables.sync import SyncConfig
from rlserve.errors import ConfigError


def rates(steps, **learner):
    rate = learning_rates(LearnerConfig(**learner), steps)
    return [rate(step) for step in range(steps)]


def test_warm_up_is_linear_and_reaches_the_rate_with_its_last_step():
    assert rates(7, lr=8e-4, warmup_steps=4) == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4, 8e-4])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates(1, lr=3e-4) == [3e-4]


def test_a_line_and_a_cosine_by_hand():
    assert rates(3, lr=4.0, schedule="linear") == pytest.approx([3.0, 2.0, 1.0])
    assert rates(4, lr=2.0, schedule="linear", warmup_steps=2) == pytest.approx([1.0, 2.0, 4 / 3, 2 / 3])
    cosine = [1 + math.cos(math.pi * step / 4) for step in (1, 2, 3)]
    assert rates(3, lr=2.0, schedule="cosine") == pytest.approx(cosine)
    floor = rates(3, lr=2.0, schedule="cosine_with_min_lr", schedule_options={"min_lr_rate": 0.5})
    assert floor == pytest.approx([1 + value / 2 for value in cosine])


OPTIONS = {
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4, "decay_type": "linear"},
}


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_schedule_is_transformers_own_a_step_ahead_and_never_zero(schedule):
    """As a trainer that calls ``scheduler.step()`` sees it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = transformers.get_scheduler(name, optimizer, 3, 13, OPTIONS.get(schedule))
    expected = []
    for _ in range(12):
        optimizer.step()
        theirs.step()
        expected.append(theirs.get_last_lr()[0])
    found = rates(12, lr=1e-3, warmup_steps=3, schedule=schedule, schedule_options=OPTIONS.get(schedule, {}))
    assert found == pytest.approx(expected) and min(found) > 0


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_options_are_those_that_transformers_takes(schedule):
    taken = inspect.signature(transformers.optimization.TYPE_TO_SCHEDULER_FUNCTION[schedule]).parameters
    others = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    assert set(taken) - others == set(SCHEDULES[schedule])


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        ({"schedule": "cosin"}, "schedule: is 'cosin'; did you mean 'cosine'?"),
        ({"schedule": "cosine", "schedule_options": {"cycles": 1}}, "did you mean 'num_cycles'?"),
        ({"schedule": "warmup_stable_decay"}, "needs num_decay_steps"),
        ({"schedule": "cosine_with_min_lr"}, "needs min_lr or min_lr_rate"),
    ],
)
def test_a_schedule_that_does_not_exist_is_refused_by_the_configuration(learner, words):
    with pytest.raises(ValidationError, match=re.escape(words)):
        LearnerConfig(**learner)


def test_options_that_do_not_fit_are_a_fault_of_the_configuration():
    wrong = LearnerConfig(lr=1e-3, schedule="polynomial", schedule_options={"lr_end": 1.0})
    with pytest.raises(ConfigError, match=r"learner.schedule_options: do not fit 'polynomial'.*must be smaller"):
        learning_rates(wrong, 10)


@pytest.mark.parametrize(
    ("config", "kls", "expected"),
    [
        (SyncConfig(), [0, 0, 0, 0], [1, 2, 3, 4]),
        (SyncConfig(every_steps=3), [9, 9, 9, 9, 9, 9], [3, 6]),
        (SyncConfig(every_steps=0), [9, 9, 9], []),
        (SyncConfig(every_steps=0, when_kl=0.1), [0.05, 0.2, 0.05, 0.1, 0.11], [2, 5]),
        (SyncConfig(every_steps=4, when_kl=0.1), [0.2, 0, 0, 0, 0, 0.3], [1, 5, 6]),
    ],
)
def test_the_sampler_gets_weights_by_period_or_divergence(config, kls, expected):
    synced, last = [], 0
    for step, kl in enumerate(kls, 1):
        if why_sync(config, steps_since=step - last, mismatch_kl=kl):
            synced.append(step)
            last = step
    assert synced == expected


def test_the_reason_is_named():
    config = SyncConfig(every_steps=2, when_kl=0.1)
    assert why_sync(config, steps_since=2, mismatch_kl=0.0) == "period"
    assert why_sync(config, steps_since=1, mismatch_kl=0.2) == "divergence"
    assert why_sync(config, steps_since=1, mismatch_kl=0.0) is None
