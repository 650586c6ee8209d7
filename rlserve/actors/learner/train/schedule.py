"""Two schedules by step: the learning rate, and when the sampler is due new weights."""

from collections.abc import Callable

import torch
from transformers import get_scheduler

from rlserve.config.tables.learner import LearnerConfig
from rlserve.config.tables.sync import SyncConfig
from rlserve.errors import ConfigError


def learning_rates(config: LearnerConfig, steps: int) -> Callable[[int], float]:
    """The learning rate of each optimizer step of a run of ``steps``, by the number of finished ones.

    A pure function of the step, so that a resume needs no state of it. The schedule's zeros, where it has any, lie
    before the first step and behind the last: no step is lost at rate 0. Raises ConfigError.
    """
    # transformers keeps apart what warm-up makes the same: "constant" would ignore warmup_steps.
    name = "constant_with_warmup" if config.schedule == "constant" and config.warmup_steps else config.schedule
    # An optimizer of one number: the schedules read its rate, and are asked for factors alone.
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    try:
        scheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=steps + 1,
            scheduler_specific_kwargs=dict(config.schedule_options),
        )
        (factor,) = scheduler.lr_lambdas
        rates = [config.lr * factor(step) for step in (1, steps)]
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"learner.schedule_options: do not fit {config.schedule!r}: {error}; change them") from None
    if min(rates) < 0:
        raise ConfigError(f"learner.schedule_options: make a negative learning rate ({min(rates):g}); change them")
    return lambda step: float(config.lr * factor(step + 1))


def why_sync(config: SyncConfig, *, steps_since: int, mismatch_kl: float) -> str | None:
    """Whether the sampler is due new weights: ``"period"`` or ``"divergence"``, or None for not yet.

    ``steps_since`` optimizer steps were taken since the last sync; ``mismatch_kl`` is the last step's metric of
    that name. With period 0 and no bound on the divergence there is never a sync.
    """
    if config.every_steps and steps_since >= config.every_steps:
        return "period"
    if config.when_kl and steps_since > 0 and mismatch_kl > config.when_kl:
        return "divergence"
    return None
