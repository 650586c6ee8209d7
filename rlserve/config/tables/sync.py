"""When the sampler gets new weights: online, semi-online, or never."""

from pydantic import Field

from rlserve.config.base import Section


class SyncConfig(Section):
    """What matters is how far the policy moves between syncs: about learning rate times steps."""

    every_steps: int = Field(1, ge=0)
    """Optimizer steps between weight syncs: 1 is online, more is semi-online, 0 is never (offline).

    ``learner.max_lag`` then counts syncs: a token may be older than the newest weights by ``max_lag`` periods. A
    checkpoint and an evaluation sync too, so that a run that is resumed goes on as one that was not stopped.
    """
    when_kl: float = Field(0.0, ge=0)
    """Sync sooner once the mean token divergence of learner from sampler passes this (nats); 0 switches it off."""
