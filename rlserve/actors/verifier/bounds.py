"""What a verifier declares of its rewards holds, at the server that runs it and at the worker that asks."""

from rlserve.records import Failure, FailureKind, Verdict

RANGE_SLACK = 1e-6


def within(verdict: Verdict, reward_range: tuple[float, float], verifier: str) -> Verdict:
    """The verdict, or none when its reward is outside of what the verifier declares."""
    low, high = reward_range
    slack = RANGE_SLACK * max(abs(low), abs(high))  # sums of weights are not exact
    if not verdict.has_reward or low - slack <= verdict.reward <= high + slack:
        return verdict
    message = (
        f"reward: is {verdict.reward:g}, outside of {low:g} to {high:g}, the reward_range of verifier "
        f"{verifier!r}; return a reward within it, or declare reward_range = (low, high)"
    )
    failure = Failure(source=f"verifier:{verifier}", kind=FailureKind.INTERNAL, message=message, retriable=False)
    return Verdict.none(failure, seconds=verdict.seconds)
