"""Events and metrics on disk."""

import json
from pathlib import Path

import pytest

from rlserve.errors import UnknownName
from rlserve.observability.events import EventLog, phase_seconds, read_json_lines
from rlserve.observability.metrics import MetricsFile, info, percentile
from rlserve.observability.summary import read_json, write_json


def test_a_torn_last_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("phase", name="start")
    with open(path, "a") as file:
        file.write('{"event": "torn')
    assert [event["name"] for event in read_json_lines(path)] == ["start"]


def test_a_phase_lasts_until_the_next_and_returns_add_up() -> None:
    marks = [("a", 0.0), ("b", 2.0), ("a", 3.0)]
    events = [{"event": "phase", "name": name, "unix_seconds": at} for name, at in marks]
    events.insert(1, {"event": "other", "name": "x", "unix_seconds": 1.0})
    assert phase_seconds(iter(events), end=7.0) == {"a": 6.0, "b": 1.0}


def test_an_undeclared_metric_is_written_and_warned_of_once(tmp_path: Path) -> None:
    path, warnings = tmp_path / "m.jsonl", []
    with MetricsFile(path, warn=warnings.append) as file:
        file.write(1, {"learner/lss": 1.0})
        file.write(2, {"learner/lss": 2.0, "learner/loss": 3.0})
    assert [row["learner/lss"] for row in read_json_lines(path)] == [1.0, 2.0]
    (warning,) = warnings
    assert "'learner/lss'" in warning
    with pytest.raises(UnknownName, match="learner/lss"):
        info("learner/lss")


@pytest.mark.parametrize(("step", "kept"), [(None, [0, 1, 1, 2, 3]), (1, [0, 1, 1]), (0, [0]), (7, [0, 1, 1, 2, 3])])
def test_a_resumed_curve_goes_on_from_its_step(tmp_path: Path, step: int | None, kept: list[int]) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsFile(path) as file:
        for number in (0, 1, 1, 2, 3):
            file.write(number, {"learner/loss": 1.0})
    with open(path, "a") as torn:
        torn.write('{"step": 4, "lear')
    with MetricsFile(path, step=step) as file:
        file.write(9, {"learner/loss": 2.0})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*kept, 9]


def test_a_non_finite_metric_is_null_not_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with MetricsFile(path) as file:
        file.write(1, {"learner/loss": float("nan"), "algorithm/anything": 2.0})
    row = json.loads(path.read_text())
    assert (row["learner/loss"], row["algorithm/anything"], row["step"]) == (None, 2.0, 1)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.99, 4.0), (0.0, 1.0), (1.0, 4.0)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == value
    assert percentile([], share) == 0.0


def test_a_summary_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert read_json(path) == {}
    write_json(path, {"steps": 3})
    assert read_json(path) == {"steps": 3}
    assert list(tmp_path.iterdir()) == [path]
