import pytest

from rlserve.algorithms.sync import why_sync
from rlserve.config.tables.sync import SyncConfig


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
