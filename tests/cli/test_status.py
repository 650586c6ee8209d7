"""``rlserve status`` of runs that are over, were killed, or never were."""

import json
from pathlib import Path

import pytest

from rlserve.cli.main import main
from rlserve.config.paths import RunPaths
from rlserve.observability.events import EventLog

SUMMARY = {
    "steps": 14,
    "accuracy_before": 0.5,
    "accuracy_after": 0.98,
    "wall_seconds": {"total": 64.0},
    "groups": {"received": 5, "dropped": {"zero_variance": 2}},
}


@pytest.fixture
def finished(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path)
    events = EventLog(paths.events)
    events.write("run_started")
    events.write("run_ended", how="finished")
    paths.summary.write_text(json.dumps(SUMMARY))
    return paths


def test_a_finished_run_shows_what_came_out(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished.root)]) == 0
    printed = capsys.readouterr().out
    for words in ("finished at step 14", "0.500 -> 0.980", "total 64", "received 5, dropped/zero_variance 2"):
        assert words in printed
    assert "--resume" not in printed


def test_json_is_json(finished: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "running": False,
        "ended": "finished",
        "message": "",
        "summary": SUMMARY,
    }


def test_a_killed_run_is_not_asked_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = RunPaths(tmp_path)
    EventLog(paths.events).write("run_started")
    paths.hub_address.write_text("127.0.0.1:1")  # no server listens there
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "killed" in printed and f"rlserve run --resume {tmp_path}" in printed


def test_a_failed_run_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = EventLog(RunPaths(tmp_path).events)
    events.write("run_started")
    events.write("run_failed", message="learner: \x1b[31mno memory\nmend that")
    events.write("run_ended", how="failed")
    main(["status", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "failed" in printed and "no memory\nmend that\n" in printed and "\x1b" not in printed


@pytest.mark.parametrize(("place", "words"), [("none", "there is no directory"), (".", "is not a run")])
def test_a_directory_that_is_no_run(place: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / place)]) == 1
    assert words in capsys.readouterr().err
    assert main(["env", "list", "--run", str(tmp_path / place)]) == 1
    assert words in capsys.readouterr().err


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert "give the directory of a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["eval"], ["generate", "--out", "graded.jsonl"]])
def test_nothing_to_measure_is_told_before_anything_starts(
    command: list[str], finished: RunPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.root)
    finished.config.write_text(
        'name = "x"\n[model]\npath = "."\nmax_length = 64\n[[environments]]\nname = "arithmetic"\n'
    )
    assert main([*command, str(finished.root), "--problems", "0", "--set", "rollout.max_new_tokens=8"]) == 1
    said = capsys.readouterr().err
    assert "nothing would be measured; give a number (--problems 500)" in said and "starting" not in said
