"""What a run shows while it goes on."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.console.follow import _Tail, show_event
from rlserve.console.progress import Progress, ProgressState


def shown(*events: dict[str, Any]) -> str:
    stream = io.StringIO()
    with Progress("t", stream) as progress:
        for event in events:
            show_event(progress, event)
    return stream.getvalue()


def test_a_warning_is_said_once_with_its_traceback() -> None:
    warning = {"event": "warning", "message": "verifier [red]x[/red] failed", "traceback": "Traceback:\n  File"}
    text = shown(warning, warning, {"event": "warning", "message": "another"})
    assert text == ("warning: verifier [red]x[/red] failed\n    Traceback:\n      File\nwarning: another\n")


def test_a_death_that_repeats_is_told_once_and_one_for_good_not_as_a_restart() -> None:
    death = {"event": "actor_died", "actor": "rollout-0", "how": "exit code 1", "said": "ValueError: x", "log": "l"}
    text = shown({**death, "restarts": True}, {**death, "restarts": True}, {**death, "restarts": False})
    assert text.count("ValueError: x") == 1 and text.count("the run continues while rollout-0 restarts; log: l") == 1


def test_what_would_steer_the_terminal_is_shown_as_text() -> None:
    assert "\x1b" not in (text := shown({"event": "warning", "message": "\x1b[2Jgone\r"})) and "\\x1b[2Jgone" in text


def test_an_early_end_says_why_and_preparation_how_far_it_is() -> None:
    ends = {"event": "ends_early", "step": 13, "steps": 20, "reason": "stop_reward = 0.97"}
    assert shown(ends) == "training ends at step 13 of 20: stop_reward = 0.97\n"
    stream = io.StringIO()
    numbers = {"step": 20, "steps": 400, "tokens_per_second": 1835.4, "eta_seconds": 245.1}
    with Progress("t", stream) as progress:
        show_event(progress, {"event": "prepare", "stage": "sft", "loss": 1.0696, **numbers, "accuracy": 0.0667})
    assert progress.state.message == "step 20/400  loss 1.07  accuracy 0.0667  tokens/s 1835  ETA 4:05"


def test_an_evaluation_without_a_verdict_is_none() -> None:
    assert shown({"event": "accuracy", "when": "before", "value": None}) == "held-out accuracy before: no verdict\n"


def test_the_eta_is_of_this_life_and_of_training_alone() -> None:
    state = ProgressState(step=10)
    state.enter("evaluate_before", 0.0)
    assert state.eta_seconds(5.0) is None
    state.enter("training", 100.0, total_steps=20)
    assert state.eta_seconds(105.0) is None
    state.step = 12
    assert state.eta_seconds(110.0) == pytest.approx(5.0 * 8)
    state.enter("evaluate_at-12", 110.0)
    assert state.eta_seconds(200.0) is None
    state.enter("training", 300.0, total_steps=20)
    assert state.eta_seconds(300.0) == pytest.approx(5.0 * 8)
    state.step = 13
    assert state.eta_seconds(305.0) == pytest.approx(5.0 * 7)


def test_a_terminal_keeps_a_line_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: True))
    stream = io.StringIO()
    with Progress("t", stream) as progress:
        for step in (1, 2, 3):
            progress.state.step = step
            progress.state.metrics["received/reward_mean"] = step / 10
            progress.refresh()
    for step in (1, 2, 3):
        assert f"reward {step / 10:.3f}" in stream.getvalue()


def test_a_tail_gives_whole_new_lines_and_survives_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"old": 1}\n')
    tail = _Tail(path)
    with open(path, "a") as file:
        file.write('{"a": 1}\n[]\n{"b"')
    assert list(tail.new()) == [{"a": 1}]
    with open(path, "a") as file:
        file.write(": 2}\n")
    assert list(tail.new()) == [{"b": 2}]
    path.write_text("")
    assert list(tail.new()) == []
    path.write_text(json.dumps({"c": 3}) + "\n")
    assert list(tail.new()) == [{"c": 3}]
