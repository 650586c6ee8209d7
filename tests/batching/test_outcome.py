"""What an algorithm sees of a group, and whether it teaches, against the plain way to say both in torch."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.algorithms import registry, rewards
from rlserve.algorithms.advantages import VARIANCE_TOLERANCE
from rlserve.algorithms.batch import GroupOutcome
from rlserve.batching.filters import outcome, why_drop
from rlserve.batching.sequences import SUPERVISED
from rlserve.config.algorithms.policy_gradient import GROUP_ADVANTAGES, GrpoConfig, PolicyGradientConfig
from rlserve.records import FinishReason, ObjectiveWeights, PreferenceRole, RolloutGroup, TeacherScores, Trajectory
from tests.support.groups import group, trajectory

ROLES = {PreferenceRole.NONE: 0, PreferenceRole.CHOSEN: 1, PreferenceRole.REJECTED: -1}
REWARDS = st.none() | st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, -1.0]) | st.floats(-1e9, 1e9)


def scores(teacher: str, length: int) -> TeacherScores:
    return TeacherScores(
        teacher=teacher,
        tokenizer_fingerprint="t",
        weights_digest="",
        logprobs=np.zeros(length, np.float32),
        top_ids=np.zeros((length, 0), np.int64),
        top_logprobs=np.zeros((length, 0), np.float32),
        log_tail=np.zeros(0, np.float32),
    )


@st.composite
def members(draw: st.DrawFn) -> Trajectory:
    made = trajectory(draw(st.integers(0, 3)), draw(REWARDS), finish=draw(st.sampled_from(FinishReason)))
    teachers = draw(st.lists(st.sampled_from(["big", "reference"]), max_size=2, unique=True))
    weights = draw(st.lists(st.sampled_from([0.0, 1.0]), max_size=1))
    return replace(
        made,
        verdict=made.verdict if draw(st.booleans()) else None,
        preference_role=draw(st.sampled_from(PreferenceRole)),
        pair_index=draw(st.integers(0, 2**32 - 1)),
        teacher_scores=tuple(scores(teacher, made.num_sampled) for teacher in teachers),
        objective_weights=tuple(ObjectiveWeights(objective=SUPERVISED, weights=np.float32([w])) for w in weights),
    )


GROUPS = st.lists(members(), min_size=1, max_size=5).map(lambda made: replace(group([1, 0]), trajectories=tuple(made)))


def usable(t: Trajectory) -> bool:
    return t.num_sampled > 0 and t.finish_reason is not FinishReason.ABORT


def expected_fields(made: RolloutGroup, reference: str) -> dict[str, torch.Tensor]:
    def column(values: list[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    samples = made.trajectories
    scored = [t.verdict is not None and t.verdict.has_reward and usable(t) for t in samples]
    return {
        "rewards": column(
            [t.verdict.reward if k else 0.0 for t, k in zip(samples, scored, strict=True)], torch.float64
        ),
        "scored": column(scored, torch.bool),
        "lengths": column([t.num_sampled for t in samples], torch.int64),
        "truncated": column([t.finish_reason is FinishReason.LENGTH for t in samples], torch.bool),
        "roles": column([ROLES[t.preference_role] for t in samples], torch.int64),
        "pair_numbers": column([t.pair_index for t in samples], torch.int64),
        "taught": column(
            [usable(t) and any(s.teacher != reference for s in t.teacher_scores) for t in samples], torch.bool
        ),
        "given": column([t.finish_reason is FinishReason.GIVEN for t in samples], torch.bool),
        "supervised": column([any((o.weights > 0).any() for o in t.objective_weights) for t in samples], torch.bool),
    }


@settings(max_examples=50, deadline=None)
@given(GROUPS, st.sampled_from(["", "reference"]))
def test_every_tensor_is_that_of_the_plain_way(made: RolloutGroup, reference: str) -> None:
    seen = outcome(made, max_new_tokens=9, reference=reference)
    for name, expected in expected_fields(made, reference).items():
        found = getattr(seen, name)
        assert found.dtype == expected.dtype and torch.equal(found, expected), name


def plain_why_drop(seen: GroupOutcome, config: PolicyGradientConfig) -> str | None:
    scored = seen.scored if seen.given is None else seen.scored & ~seen.given
    values = seen.rewards[scored]
    if values.numel() < (2 if config.advantage in GROUP_ADVANTAGES else 1):
        return "no_verdict"
    if config.advantage == "max_rl" and bool((values < 0).any()):
        return "negative_reward"
    if config.zero_variance == "drop" and float(values.max() - values.min()) <= VARIANCE_TOLERANCE:
        return "zero_variance"
    trained = scored & ~seen.truncated if config.truncated == "mask" else scored
    return None if bool(trained.any()) else "truncated"


ADVANTAGES = ("group_std", "group_mean", "leave_one_out", "batch_std", "max_rl", "running_baseline")
CONFIGS = st.builds(
    lambda advantage, zero_variance, truncated: GrpoConfig(
        advantage=advantage,
        zero_variance="keep" if advantage == "running_baseline" else zero_variance,
        truncated=truncated,
    ),
    st.sampled_from(ADVANTAGES),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from(["keep", "mask"]),
)


@settings(max_examples=80, deadline=None)
@given(GROUPS, CONFIGS, st.booleans())
def test_a_group_is_dropped_for_the_reason_of_the_plain_way(
    made: RolloutGroup, config: GrpoConfig, tells_given: bool
) -> None:
    seen = outcome(made, max_new_tokens=9)
    seen = seen if tells_given else replace(seen, given=None)
    assert rewards.why_drop(seen, config) == plain_why_drop(seen, config)
    if any(map(usable, made.trajectories)):
        assert why_drop(made, registry.create(config)) == plain_why_drop(outcome(made, max_new_tokens=9), config)
