"""The report page, from the files of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main
from rlserve.config.load import to_toml, validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.events import EventLog
from rlserve.observability.metrics import MetricsFile
from rlserve.observability.plots import panels_of, read_metrics
from rlserve.observability.report import write_report

CONFIG: dict[str, Any] = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}
SAMPLE: dict[str, Any] = {"when": "before", "prompt": "1+1=", "completion": "<script>x</script>", "reward": 0.0}


def write_samples(paths: RunPaths, *changes: dict[str, Any]) -> None:
    rows = [{**SAMPLE, "right": False, "reason": "expected 2", **change} for change in changes]
    paths.samples.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_report_shows_curves_samples_and_escapes_what_models_write(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with MetricsFile(paths.metrics) as file:
        for step in range(1, 4):
            file.write(step, {"received/reward_mean": step / 4, "lag/mean": 1.0, "lag/max": 2.0})
    write_samples(paths, {})
    paths.summary.write_text(json.dumps({"accuracy_before": 0.25, "lag": {"histogram": {"0": 10, "1": 5}}}))
    write_report(validate(RunConfig, CONFIG), paths)
    page = paths.report.read_text()
    assert page.count("<svg") == 3
    assert "<script>x" not in page and "&lt;script&gt;x" in page
    assert "0.250" in page and 'name="viewport"' in page


def test_a_run_without_steps_still_has_a_report(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write_report(validate(RunConfig, CONFIG), paths)
    assert "No training step was recorded" in paths.report.read_text()


@pytest.mark.parametrize(
    "change", [{"reward": None}, {"reward": None, "reason": None}, {"prompt": None}, {"when": None}, {"reward": "?"}]
)
def test_a_sample_without_a_verdict_spoils_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write_samples(paths, change, {"completion": "the next one"})
    write_report(None, paths)
    page = paths.report.read_text()
    assert "the next one" in page
    assert ("no verdict" in page) == ("reward" in change)


def test_rows_that_lack_everything_spoil_nothing(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for path in (paths.samples, paths.events, paths.metrics):
        path.write_text("{}\n[]\n{\n" + '{"event": null, "step": "x", "when": 3}\n')
    paths.summary.write_text('{"accuracy_before": null, "stall_seconds": {}}')
    write_report(None, paths)
    assert paths.report.exists()


def test_of_rewards_on_a_scale_the_mean_is_told_and_no_accuracy(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    measured = {"measures": {"reward_mean": {"value": 0.11, "low": 0.1, "high": 0.125}}}
    rewards = {"reward_before": 0.06, "reward_after": 0.11, "accuracy_before": None, "accuracy_after": None}
    paths.summary.write_text(json.dumps(rewards | {"evaluations": {"before": None, "after": measured}}))
    write_samples(paths, {"reward": 0.25, "right": None})
    write_report(None, paths)
    page = paths.report.read_text()
    assert "held-out mean reward after<b>0.110 [0.100, 0.125]</b>" in page and "held-out accuracy" not in page
    assert '<td class="none">0.25</td>' in page


def test_a_failed_run_says_why_until_it_goes_on(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    events = EventLog(paths.events)
    events.write("run_started")
    events.write("run_failed", message="learner: out of <memory>")
    write_report(None, paths)
    assert '<p class="failed">learner: out of &lt;memory&gt;</p>' in paths.report.read_text()
    events.write("run_started")
    write_report(None, paths)
    assert 'class="failed"' not in paths.report.read_text()


def test_a_curve_never_runs_backwards(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": s, "life": life}) + "\n" for life, s in enumerate([1, 2, 3, 4, 3, 4, 5]))
    )
    assert [(row["step"], row["life"]) for row in read_metrics(path)] == [(1, 0), (2, 1), (3, 4), (4, 5), (5, 6)]


def test_dropped_groups_are_drawn_by_reason() -> None:
    panel = panels_of([{"step": 1, "groups/dropped/no_verdict": 3.0}, {"step": 2, "groups/dropped/stale": 1.0}])[-1]
    assert panel.lines == (("groups/dropped/no_verdict", "no_verdict"), ("groups/dropped/stale", "stale"))


def test_the_command_makes_the_page_of_any_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand, launched = RunPaths(tmp_path / "by-hand"), RunPaths(tmp_path / "launched")
    for paths in (by_hand, launched):
        paths.root.mkdir()
        EventLog(paths.events).write("run_started")
    launched.config.write_text(to_toml(validate(RunConfig, CONFIG)))
    assert main(["report", str(by_hand.root), str(launched.root)]) == 0
    assert "by-hand" in by_hand.report.read_text() and "grpo, seed 0" in launched.report.read_text()
    (tmp_path / "other").mkdir()
    for wrong, words in (("none", "there is no directory"), ("other", "is not a run")):
        assert main(["report", str(tmp_path / wrong)]) == 1
        assert words in capsys.readouterr().err
