"""Which engine hangs, by made-up histories of tokens and processor time; a real one: test_engine_death."""

from rlserve.actors.rollout.stillness import LOOK_SECONDS, Stillness
from rlserve.engines.vllm.watch import BUSY_FACTOR, EngineWatch
from tests.support.clock import ManualClock

LIMIT = 10.0


class Engine:
    """Shown to a watch once a second."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.watch = EngineWatch(LIMIT, self.clock)
        self.tokens, self.processor = 0, 0.0

    def second(
        self, *, share: float = 0.0, tokens: int = 0, asked: bool = True, sampling: bool = True, pause: float = 1.0
    ) -> str:
        """One more second, of which a share was spent running or ready to run."""
        self.clock.advance(pause)
        self.tokens += tokens
        self.processor += share
        return self.watch.look(asked=asked, sampling=sampling, output=self.tokens, processor_seconds=self.processor)


def seconds_until_dead(engine: Engine, **second: float) -> int:
    for number in range(1, 1000):
        if engine.second(**second):  # type: ignore[arg-type]
            return number
    return 0


def test_an_engine_that_neither_samples_nor_computes_is_dead_at_the_limit() -> None:
    engine = Engine()
    assert engine.second(share=1, tokens=5) == ""
    assert seconds_until_dead(engine) == LIMIT


def test_threads_that_look_after_something_are_no_computing() -> None:
    engine = Engine()
    engine.second(share=1)
    assert seconds_until_dead(engine, share=0.005) == LIMIT


def test_a_starved_engine_lives() -> None:
    """One of forty busy processes on one core, where the kernel does not account its waiting."""
    engine = Engine()
    engine.second(tokens=1)
    assert seconds_until_dead(engine, share=0.025) == BUSY_FACTOR * LIMIT


def test_an_engine_that_computes_and_samples_nothing_has_ten_times_the_limit() -> None:
    engine = Engine()
    engine.second(tokens=1)
    assert seconds_until_dead(engine, share=1) == BUSY_FACTOR * LIMIT


def test_a_token_now_and_then_is_enough() -> None:
    engine = Engine()
    for _ in range(50):
        assert [engine.second() for _ in range(int(LIMIT) - 1)] == [""] * 9
        assert engine.second(tokens=1) == ""


def test_an_idle_engine_lives_and_gets_its_whole_limit_when_it_is_asked() -> None:
    engine = Engine()
    engine.second(share=1, tokens=1)
    assert all(engine.second(asked=False, sampling=False) == "" for _ in range(500))
    assert seconds_until_dead(engine) == LIMIT


def test_an_update_that_computes_may_take_its_time_but_not_stand_still() -> None:
    engine = Engine()
    engine.second(share=1, tokens=1)
    assert all(engine.second(share=0.5, sampling=False) == "" for _ in range(500))
    assert seconds_until_dead(engine, sampling=False) == LIMIT


def test_a_watcher_that_was_stopped_itself_does_not_count_that_time() -> None:
    engine = Engine()
    engine.second(share=1, tokens=1)
    assert engine.second(pause=1000) == ""
    assert engine.second(pause=1000) == ""
    assert seconds_until_dead(engine) == LIMIT - 4


def test_stillness_counts_the_time_that_could_be_seen() -> None:
    clock = ManualClock()
    still: Stillness[int] = Stillness(LIMIT, clock)
    assert not still.look(1)
    clock.advance(1000)
    assert not still.look(1) and still.seconds == LOOK_SECONDS
    for _ in range(7):
        clock.advance(1)
        assert not still.look(1)
    clock.advance(1)
    assert still.look(1) and still.seconds == LIMIT
    assert not still.look(2) and still.seconds == 0.0


def test_stillness_without_a_limit_is_never_over() -> None:
    clock = ManualClock()
    still: Stillness[int] = Stillness(0.0, clock)
    for _ in range(1000):
        clock.advance(1)
        assert not still.look(1)
