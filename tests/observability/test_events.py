"""Events and metrics on disk."""

import json
from pathlib import Path

import pytest

from rlserve.errors import UnknownName
from rlserve.observability.events import EventLog, phase_seconds, read_json_lines
from rlserve.observability.metrics import MetricsFile, percentile
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


def test_an_undeclared_metric_is_refused(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "m.jsonl") as file, pytest.raises(UnknownName, match="learner/lss"):
        file.write(1, {"learner/lss": 1.0})


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
