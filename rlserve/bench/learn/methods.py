"""The compared methods, as changes to the quick start's configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GROUPS = 768
"""Budget of each method: groups of 8 samples, 6144 samples in all. Any value of this size will do: a run takes
minutes."""
MAX_STEPS = 60
"""Above the steps of any method: the budget ends each run."""
CONSTANT = {"averaging": "constant", "constant_length": 38}
GRPO = {"type": "grpo", "clip_high": 0.2, **CONSTANT}
GSPO = {"type": "gspo", "clip_low": 0.02, "clip_high": 0.03}
"""Wider than the published bounds, which suit long sequences: with short ones that lag, those clip most of a batch."""
DPO = {"type": "dpo", "beta": 0.1, "pairs": {"pairs_per_group": 2}}
SAME, OTHER = "worked", "paired"
"""Names of the teachers: one with the policy's tokenizer, one with a byte-pair tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    title: str
    changes: Mapping[str, Any]
    """Changes to the quick start's configuration without its [pretrain] and [sft]."""
    teacher: str = ""
    """Name of the teacher that is served; empty without one."""
    given: str = ""
    """Environment whose tasks come with completions, ``"pairs"`` or ``"examples"``; nothing is sampled then."""


def _given(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "environments": [
            {"name": kind, "eval_weight": 0, "options": dict(options)},
            {"name": "arithmetic", "weight": 0, "eval_weight": 1},
        ],
        "sync": {"every_steps": 0},
    }


METHODS = (
    Method(name="grpo_pipeline", title="pipeline GRPO", changes={"algorithm": GRPO}),
    Method(name="grpo_synchronous", title="synchronous GRPO", changes={"algorithm": GRPO, "learner": {"max_lag": 0}}),
    Method(name="cispo", title="CISPO", changes={"algorithm": {"type": "cispo", **CONSTANT}}),
    Method(name="gspo", title="GSPO", changes={"algorithm": GSPO}),
    Method(name="dpo_online", title="online DPO", changes={"algorithm": DPO}),
    Method(name="dpo_semi_4", title="semi-online DPO, s = 4", changes={"algorithm": DPO, "sync": {"every_steps": 4}}),
    Method(
        name="dpo_semi_12", title="semi-online DPO, s = 12", changes={"algorithm": DPO, "sync": {"every_steps": 12}}
    ),
    Method(
        name="dpo_offline",
        title="offline DPO",
        changes={
            "algorithm": {**DPO, "pairs": {"selection": "given"}},
            "learner": {"groups_per_step": 64},
            "steps": 20,
            **_given("pairs", {"path": "PAIRS"}),
        },
        given="pairs",
    ),
    Method(name="distill", title="on-policy distillation", changes={"algorithm": {"type": "distill"}}, teacher=SAME),
    Method(
        name="distill_cross_tokenizer",
        title="on-policy distillation, other tokenizer",
        changes={"algorithm": {"type": "distill"}},
        teacher=OTHER,
    ),
    Method(
        name="distill_offline",
        title="off-policy distillation",
        changes={
            "algorithm": {
                "type": "distill",
                "estimator": "top_k",
                "beta": 0.0,
                "k": 8,
                "coefficient": 0.5,
                "cross_entropy": 0.5,
            },
            "learner": {"groups_per_step": 256},
            "steps": 24,
            **_given("examples", {"path": "EXAMPLES", "weight": 0.0}),
        },
        teacher=SAME,
        given="examples",
    ),
    Method(
        name="grpo_distill",
        title="GRPO + distillation",
        changes={
            "algorithm": {
                "type": "mixed",
                "distill_weight": 0.5,
                "reward": GRPO,
                "distill": {"type": "distill"},
            }
        },
        teacher=SAME,
    ),
)
