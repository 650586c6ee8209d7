"""What leases and inbox need to know of their run, gathered once from its configuration."""

from dataclasses import dataclass

from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.config.run import RunConfig
from rlserve.rpc.codec import GroupLimits
from rlserve.rpc.codec.task import MAX_GIVEN

NO_LIMITS = GroupLimits()
GRACE_SECONDS = 2.0
"""Long enough for a worker to dial again after a broken stream; meanwhile no other works on its groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """What an inbox needs to know of its run."""

    run_id: str
    seed: int
    mixture: tuple[MixtureEntry, ...]
    num_samples: int
    """Trajectories of a group."""
    max_outstanding: int
    """Groups leased or queued at once, beside those in training."""
    max_lag: int
    """Versions that the oldest token of a trained group may be behind the newest."""
    lease_seconds: float
    tokenizer_fingerprint: str
    grace_seconds: float = GRACE_SECONDS
    """A worker whose stream broke keeps its leases for this long."""
    leases_ahead: bool = True
    """Lease while a batch is in training; else its groups count as queued until the step is done."""
    batch: int = 1
    """Groups of a step."""
    temperature: float = 1.0
    """At which tasks are sampled that set none themselves."""
    limits: GroupLimits = NO_LIMITS
    """Of a group's content: token ids, lengths, number of trajectories."""

    @classmethod
    def of(
        cls, config: RunConfig, *, mixture: tuple[MixtureEntry, ...], tokenizer_fingerprint: str, vocab_size: int
    ) -> "InboxSettings":
        """From the run's configuration, and what the model and a curriculum add to it."""
        return cls(
            run_id=config.name,
            seed=config.seed,
            mixture=mixture,
            num_samples=config.rollout.group_size,
            max_outstanding=config.max_outstanding_groups,
            leases_ahead=config.leases_ahead,
            max_lag=config.max_lag_steps,
            lease_seconds=config.learner.lease_seconds,
            batch=config.learner.groups_per_step,
            temperature=config.rollout.temperature,
            tokenizer_fingerprint=tokenizer_fingerprint,
            limits=GroupLimits(
                vocab_size=vocab_size,
                max_tokens=config.model.max_length,
                # The largest group of any kind: sampled, of an evaluation, or given by its task.
                max_trajectories=max(config.rollout.group_size, config.evaluate.samples, MAX_GIVEN),
            ),
        )
