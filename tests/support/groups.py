"""Small rollout groups for tests."""

from collections.abc import Sequence

import numpy as np

from rlserve.records import (
    Failure,
    FailureKind,
    FinishReason,
    Outcome,
    PolicySpan,
    RolloutGroup,
    Segment,
    SegmentKind,
    Task,
    Trajectory,
    Verdict,
)

NO_VERDICT = Verdict.none(Failure(source="verifier:exact", kind=FailureKind.TIMEOUT, message="slow", retriable=True))


def task(index: int = 0, environment: str = "arithmetic", **options) -> Task:
    return Task(
        environment=environment,
        split="train",
        index=index,
        task_id=f"{environment}:{index}",
        prompt=(1, 2, 3),
        verifier="exact",
        payload=b"",
        **options,
    )


def trajectory(
    sampled: int,
    reward: float | None,
    *,
    member: int = 0,
    prompt: int = 3,
    spans: Sequence[tuple[int, int]] | None = None,
    finish: FinishReason = FinishReason.STOP,
    seed: int = 0,
) -> Trajectory:
    """``reward`` None: no verdict. ``spans``: (version, length) pairs, by default version 0 throughout."""
    generator = np.random.default_rng([seed, member, sampled])
    verdict = NO_VERDICT
    if reward is not None:
        verdict = Verdict(outcome=Outcome.PASS if reward >= 1 else Outcome.FAIL, reward=reward)
    return Trajectory(
        sample_index=member,
        token_ids=generator.integers(1, 30, prompt + sampled),
        segments=(Segment(kind=SegmentKind.GIVEN, length=prompt), Segment(kind=SegmentKind.SAMPLED, length=sampled)),
        behavior_logprobs=-generator.random(sampled).astype(np.float32),
        policy_spans=tuple(PolicySpan(v, n) for v, n in spans or [(0, sampled)]),
        finish_reason=finish,
        verdict=verdict,
    )


def group(
    rewards: Sequence[float | None], lengths: Sequence[int] | None = None, *, index: int = 0, **options
) -> RolloutGroup:
    lengths = lengths or [4 + i for i in range(len(rewards))]
    members = tuple(
        trajectory(length, reward, member=number, seed=index)
        for number, (length, reward) in enumerate(zip(lengths, rewards, strict=True))
    )
    return RolloutGroup(group_id=f"g{index}", task=task(index, **options), trajectories=members, worker_id="w")
