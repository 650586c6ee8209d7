"""The methods that are compared, as changes to one configuration: the quick start's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GROUPS = 768
"""Budget: groups of 8 samples, 6144 in all."""
MAX_STEPS = 60
"""No method comes near: the budget ends it."""
CONSTANT = {"averaging": "constant", "constant_length": 38}
GRPO = {"type": "grpo", "clip_high": 0.2, **CONSTANT}
GSPO = {"type": "gspo", "clip_low": 0.02, "clip_high": 0.03}
"""Wider than the published bounds, which are for long sequences: those stop most of a batch of short ones that lag."""
DPO = {"type": "dpo", "beta": 0.1, "pairs": {"pairs_per_group": 2}}
SAME, OTHER = "worked", "paired"
"""Teachers: one with the policy's tokenizer, one with byte pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One line of the table."""

    name: str
    title: str
    changes: Mapping[str, Any]
    """Over the quick start's configuration, without its [pretrain] and [sft]."""
    teacher: str = ""
    """Which of the two is served; empty for none."""
    given: str = ""
    """Environment of completions that come with the tasks, ``"pairs"`` or ``"examples"``; nothing is sampled then."""


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
