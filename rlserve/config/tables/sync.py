"""``[sync]``: when rollout workers get new weights: online, semi-online, or never."""

from pydantic import Field

from rlserve.config.base import Section


class SyncConfig(Section):
    """Schedule of weight syncs. The policy moves between syncs by about learning rate times steps."""

    every_steps: int = Field(1, ge=0)
    """Optimizer steps between weight syncs: 1 is online, more is semi-online, 0 is never (offline).

    ``learner.max_lag`` then counts syncs: a token may be older than the newest weights by ``max_lag`` periods. A
    checkpoint and an evaluation sync too, so that a resumed run continues as one that was never stopped.
    """
    broadcast_address: str = ""
    """Address of the learner's host on a network that it shares with trusted workers alone: weights are broadcast
    there, over NCCL between GPUs, else over gloo, to workers on other hosts. Nothing of it is encrypted. Empty: no
    broadcast."""
    when_kl: float = Field(0.0, ge=0)
    """Sync sooner once the mean token divergence of learner from sampler exceeds this (nats); 0 disables it."""
