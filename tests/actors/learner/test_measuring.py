"""Held-out measurements: who serves the version, what counts, and what is remembered."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlserve.actors.learner.loop_state import LoopState
from rlserve.actors.learner.measure import measuring
from rlserve.actors.learner.measure.evaluation import score
from rlserve.actors.learner.measure.measuring import Measuring
from rlserve.config.run import RunConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.events import read_json_lines
from rlserve.observability.metrics import info
from rlserve.observability.warner import Warner
from rlserve.store.base import StoreMark
from rlserve.store.sqlite import SqliteStore
from tests.support.groups import group
from tests.support.intake import make_inbox

CONFIG = RunConfig.model_validate(
    {"name": "run", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}], "launch": {"start_seconds": 50}}
)


def test_accuracy_is_over_judged_samples_and_the_rest_is_told() -> None:
    evaluation = score([group((1.0, 0.5)), group((None, 0.0), index=1)])
    assert (evaluation.accuracy, evaluation.reward_mean) == (pytest.approx(1 / 3), 0.5)
    assert (evaluation.samples, evaluation.unjudged) == (4, 1)
    assert evaluation.text.startswith("0.333 [0.000, ")
    assert "] (of 3 judged; 1 without a verdict), mean reward 0.5, avg@2 0." in evaluation.text
    assert evaluation.metrics()["evaluate/no_verdict"] == 1


def test_a_measurement_without_a_verdict_is_no_verdict_and_not_zero() -> None:
    evaluation = score([group((None, None))], asked=3)
    assert (evaluation.accuracy, evaluation.reward_mean) == (None, None)
    assert (evaluation.value("accuracy/arithmetic"), evaluation.value("pass@2")) == (None, None)
    assert evaluation.text == "no verdict: none of 2 samples was judged; 2 of 3 problems never came"
    assert set(evaluation.metrics()) == {"evaluate/problems", "evaluate/samples", "evaluate/no_verdict"}
    assert json.loads(json.dumps(evaluation.to_json()))["accuracy"] is None


def test_a_wrong_measurement_is_zero() -> None:
    evaluation = score([group((0.0, 0.0))])
    assert evaluation.accuracy == 0.0
    assert evaluation.text.startswith("0.000 [0.000, 0.000], mean reward 0, avg@2")


def test_every_number_of_a_measurement_is_declared() -> None:
    for name in score([group((1.0, None)), group((1.0, 0.0), index=1)], k=(2,)).metrics():
        info(name)


class Workers:
    """Workers that confirm versions as a script says, by the time of a clock that each look moves on."""

    def __init__(self, names: Sequence[str], confirms: dict[str, float]) -> None:
        self.names, self.confirms, self.now = names, confirms, 0.0

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def served(self) -> dict[str, int]:
        return {name: 7 if self.now >= at else 6 for name, at in self.confirms.items()}


def wait(directory: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, config: RunConfig = CONFIG) -> list[str]:
    """The warnings of a wait for version 7."""
    monkeypatch.setattr(measuring, "POLL_SECONDS", 0.0)
    inbox = make_inbox(directory / "groups.sqlite")
    for name in workers.names:
        inbox.join(name, capacity=1)
    absent: Any = SimpleNamespace()
    made = Measuring(
        config,
        inbox=inbox,
        store=absent,
        reporter=absent,
        waits=absent,
        best=absent,
        served=workers.served,
        warn=Warner(directory / "events.jsonl"),
        check=lambda: None,
        clock=workers.clock,
    )
    made._wait_until_served("at-7", 7)
    return [str(e["message"]) for e in read_json_lines(directory / "events.jsonl")]


def test_all_that_confirm_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(("a", "b", "c"), {"a": 5, "b": 22, "c": 40})
    assert wait(tmp_path, workers, monkeypatch) == []
    assert workers.now >= 40


@pytest.mark.parametrize("confirms", [{"a": 5}, {"a": 5, "mute": 1e9}])
def test_one_that_never_confirms_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confirms: dict[str, float]
) -> None:
    (warning,) = wait(tmp_path, Workers(("a", "mute"), confirms), monkeypatch)
    held = "serves 6" if "mute" in confirms else "has confirmed none"
    assert f"mute ({held}) did not confirm version 7 in 20 s" in warning
    assert "made without, by a." in warning


def test_a_short_start_ends_no_wait_for_laggards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = CONFIG.launch.model_copy(update={"start_seconds": 5})
    workers = Workers(("a", "mute"), {"a": 1})
    (warning,) = wait(tmp_path, workers, monkeypatch, CONFIG.model_copy(update={"launch": launch}))
    assert "made without, by a." in warning


def test_where_absent_confirms_the_run_ends_naming_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"no rollout worker serves version 7 after 5\d s.*a \(serves 6\), mute \(has confirmed none\)"
    with pytest.raises(DeadlineExceeded, match=told):
        wait(tmp_path, Workers(("a", "mute"), {"a": 1e9}), monkeypatch)
    with pytest.raises(DeadlineExceeded, match="no worker joined"):
        wait(tmp_path / "groups.sqlite" / "..", Workers((), {}), monkeypatch)


def test_what_was_measured_last_outlives_the_process(tmp_path: Path) -> None:
    def made(store: SqliteStore) -> bool:
        absent: Any = SimpleNamespace()
        parts = dict.fromkeys(("inbox", "reporter", "waits", "best", "served", "warn", "check"), absent)
        return Measuring(CONFIG, store=store, **parts).was_made("at-5", 5)

    store = SqliteStore(tmp_path / "groups.sqlite")
    assert not made(store)
    store.remember(measuring.MEASURED, measuring._mark("at-5", 5))
    store.close()
    assert made(SqliteStore(tmp_path / "groups.sqlite"))


def test_a_checkpoint_keeps_what_is_owed_and_what_was_measured_before() -> None:
    before = score([group((None, None))]).to_json()
    state = LoopState(step=5, before=before, owed="at-5", store=StoreMark("a", 3))
    again = LoopState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state


def test_a_run_has_reached_its_reward_when_most_of_the_last_steps_have() -> None:
    state = LoopState()
    for reward in (0.9, 0.9, 3e37, 0.9):
        state.note_reward(reward)
        assert not state.has_reached(0.8)  # too few steps
    for reward, reached in ((0.1, True), (0.1, True), (0.1, False), (3e37, False)):
        state.note_reward(reward)
        assert state.has_reached(0.8) == reached, state.recent_rewards
    assert not state.has_reached(None)
