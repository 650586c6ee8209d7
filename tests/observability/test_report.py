"""The report page, from the files of a run."""

import json
from pathlib import Path
from typing import Any

from rlserve.config.load import validate
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.observability.metrics import MetricsFile
from rlserve.observability.report import write_report

CONFIG: dict[str, Any] = {"name": "t", "model": {"path": "m"}, "environments": [{"name": "arithmetic"}]}


def test_a_report_shows_curves_samples_and_escapes_what_models_write(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with MetricsFile(paths.metrics) as file:
        for step in range(1, 4):
            file.write(step, {"received/reward_mean": step / 4, "lag/mean": 1.0, "lag/max": 2.0})
    sample = {"when": "before", "prompt": "1+1=", "completion": "<script>x</script>", "reward": 0.0}
    paths.samples.write_text(json.dumps({**sample, "right": False, "reason": "expected 2"}) + "\n")
    paths.summary.write_text(json.dumps({"accuracy_before": 0.25, "lag": {"histogram": {"0": 10, "1": 5}}}))
    write_report(validate(RunConfig, CONFIG), paths)
    page = paths.report.read_text()
    assert page.count("<svg") == 2
    assert "<script>x" not in page and "&lt;script&gt;x" in page
    assert "0.250" in page


def test_a_run_without_steps_still_has_a_report(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    write_report(validate(RunConfig, CONFIG), paths)
    assert "No training step was recorded" in paths.report.read_text()
