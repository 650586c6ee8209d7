"""Enforces a verifier's declared reward range, at the server that runs it and at the worker that calls it."""

from rlserve.records import Failure, FailureKind, Verdict

RANGE_SLACK = 1e-6
"""Relative: a weighted sum of float parts may miss its bound by rounding, far below what any reward means."""


def within(verdict: Verdict, reward_range: tuple[float, float], verifier: str) -> Verdict:
    """The verdict, or NO_VERDICT if its reward is outside the declared range."""
    low, high = reward_range
    slack = RANGE_SLACK * max(abs(low), abs(high))
    if not verdict.has_reward or low - slack <= verdict.reward <= high + slack:
        return verdict
    message = (
        f"reward: is {verdict.reward:g}, outside {low:g} to {high:g}, the reward_range of verifier "
        f"{verifier!r}; return a reward within it, or declare reward_range = (low, high)"
    )
    failure = Failure(source=f"verifier:{verifier}", kind=FailureKind.INTERNAL, message=message, retriable=False)
    return Verdict.none(failure, seconds=verdict.seconds)
