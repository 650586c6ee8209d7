"""How a trajectory is made of what an engine sampled."""

import numpy as np

from rlserve.records import FinishReason, Outcome, PolicySpan, Sample, SegmentKind, Trajectory, Verdict

SAMPLE = Sample(
    token_ids=np.array([7, 8, 9]),
    logprobs=np.array([-0.5, -1.0, -0.25], dtype=np.float32),
    policy_spans=(PolicySpan(3, 2), PolicySpan(4, 1)),
    finish_reason=FinishReason.STOP,
    seconds=0.5,
)


def test_a_single_turn_is_the_prompt_and_the_sample() -> None:
    trajectory = Trajectory.single_turn([1, 2], SAMPLE, index=5, temperature=0.7, top_p=0.9, seed=11)
    assert trajectory.token_ids.tolist() == [1, 2, 7, 8, 9]
    assert trajectory.sampled_mask.tolist() == [False, False, True, True, True]
    assert trajectory.versions.tolist() == [3, 3, 4]
    assert trajectory.behavior_logprobs is SAMPLE.logprobs
    assert (trajectory.sample_index, trajectory.temperature, trajectory.top_p, trajectory.seed) == (5, 0.7, 0.9, 11)
    assert (trajectory.finish_reason, trajectory.generation_seconds) == (FinishReason.STOP, 0.5)
    assert trajectory.verdict is None


def test_judging_changes_nothing_that_was_sampled() -> None:
    verdict = Verdict(outcome=Outcome.PASS, reward=1.0)
    before = Trajectory.single_turn([1, 2], SAMPLE, index=0)
    after = before.judged(verdict, completion="x", started=10.0, finished=12.0, verification_seconds=1.5)
    assert (after.verdict, after.completion) == (verdict, "x")
    assert (after.started_unix_seconds, after.finished_unix_seconds, after.verification_seconds) == (10.0, 12.0, 1.5)
    assert after.token_ids is before.token_ids and after.policy_spans is before.policy_spans


def test_a_given_completion_has_no_behaviour_logprobs() -> None:
    trajectory = Trajectory.single_turn([1], Sample.given([4, 5], version=6), index=0)
    assert trajectory.segments[-1].kind is SegmentKind.SAMPLED
    assert trajectory.behavior_logprobs.tolist() == [0.0, 0.0]
    assert trajectory.policy_spans == (PolicySpan(6, 2),)
    assert trajectory.finish_reason is FinishReason.GIVEN
