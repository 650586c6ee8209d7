import pytest

from rlserve.actors.learner.train.schedule import learning_rate, why_sync
from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.sync import SyncConfig


def test_warm_up_is_linear_and_reaches_the_rate_with_its_last_step():
    config = LearnerConfig(lr=8e-4, warmup_steps=4)
    rates = [learning_rate(config, step) for step in range(7)]
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4, 8e-4])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate(LearnerConfig(lr=3e-4), 0) == 3e-4


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
