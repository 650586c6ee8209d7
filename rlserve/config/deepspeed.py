"""``[learner.deepspeed]``: what of DeepSpeed's own configuration a user may set."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlserve.nearest import known_names

OWNED: Mapping[str, str] = {
    "train_batch_size": "learner.groups_per_step",
    "train_micro_batch_size_per_gpu": "learner.tokens_per_micro_batch",
    "gradient_accumulation_steps": "learner.tokens_per_micro_batch",
    "gradient_clipping": "learner.max_grad_norm",
    "optimizer": "learner.lr, betas, adam_epsilon and weight_decay",
    "scheduler": "learner.schedule",
    "fp16": "learner.dtype",
    "bf16.enabled": "learner.dtype",
    "zero_optimization.stage": "learner.zero_stage",
    "data_types": "nothing: sums over micro-batches stay in float32",
    "steps_per_print": "the run's own log",
    "checkpoint": "[checkpoint]",
}
"""Keys that follow from other tables, by what to use instead."""
PASSED = (
    "activation_checkpointing",
    "aio",
    "bf16",
    "comms_logger",
    "communication_data_type",
    "disable_allgather",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
    "zero_optimization",
)
"""Keys at the top that reach DeepSpeed, which itself ignores a name that it does not know."""


def faults(given: Mapping[str, Any]) -> Iterator[str]:
    """A message for each key that cannot be set here."""
    for name, value in given.items():
        inner = value if isinstance(value, Mapping) else {}
        for owned in (name, *(f"{name}.{key}" for key in inner)):
            if owned in OWNED:
                yield f"deepspeed.{owned}: follows from the run's own configuration; use {OWNED[owned]}"
        if name not in PASSED and name not in OWNED:
            yield f"deepspeed.{name}: is no key that is passed on{known_names(name, PASSED)}"


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """``theirs`` over ``ours``, table by table."""
    both = dict(ours)
    for name, value in theirs.items():
        own = both.get(name)
        both[name] = merged(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return both
