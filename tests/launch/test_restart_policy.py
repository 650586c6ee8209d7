"""When to restart and when to give up."""

from hypothesis import given
from hypothesis import strategies as st

from rlserve.launch.supervision.restart_policy import MAX_PAUSE_SECONDS, WINDOW_SECONDS, RestartPolicy


def test_the_pause_doubles_with_each_death() -> None:
    policy = RestartPolicy(backoff_seconds=0.5, max_restarts=4)
    assert [policy.pause_after_death(float(t)) for t in range(4)] == [0.5, 1.0, 2.0, 4.0]


def test_one_death_more_than_allowed_ends_it() -> None:
    policy = RestartPolicy(backoff_seconds=0.5, max_restarts=2)
    assert [policy.pause_after_death(float(t)) for t in range(3)][-1] is None


def test_deaths_outside_the_window_are_forgotten() -> None:
    policy = RestartPolicy(backoff_seconds=0.5, max_restarts=1)
    assert policy.pause_after_death(0.0) == 0.5
    assert policy.pause_after_death(WINDOW_SECONDS + 1) == 0.5


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(0, 10))
def test_a_pause_is_bounded_and_restarts_are_counted(gaps: list[float], allowed: int) -> None:
    policy = RestartPolicy(backoff_seconds=0.1, max_restarts=allowed)
    now, pauses = 0.0, []
    for gap in gaps:
        now += gap
        pauses.append((now, policy.pause_after_death(now)))
    for index, (when, pause) in enumerate(pauses):
        recent = sum(when - WINDOW_SECONDS <= t for t, _ in pauses[: index + 1])
        assert (pause is None) == (recent > allowed)
        assert pause is None or 0 < pause <= MAX_PAUSE_SECONDS
