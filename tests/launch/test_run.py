"""One life of a run, as far as it needs no actors."""

import asyncio
from pathlib import Path

import pytest

from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.launch import run as run_module
from rlserve.launch.directory import write_config
from rlserve.launch.local import LocalLauncher
from rlserve.launch.run import OneLife, Silent
from rlserve.observability.events import EventLog
from rlserve.observability.metrics import MetricsFile

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"


async def test_the_report_is_written_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "REPORT_POLL_SECONDS", 0.01)
    paths = RunPaths(tmp_path)
    config = load_run([QUICK], ["launch.report_every_steps=2"])
    write_config(config, paths)
    life = OneLife(config, paths, LocalLauncher(config, paths, digest=""), Silent(), resume=False)
    with MetricsFile(paths.metrics) as file:
        file.write(1, {"received/reward_mean": 0.5})
        writing = asyncio.create_task(life._report_now_and_then())
        await asyncio.sleep(0.1)
        assert not paths.report.exists()
        file.write(2, {"received/reward_mean": 0.5})
        async with asyncio.timeout(120):
            while not paths.report.exists():
                await asyncio.sleep(0.05)
        writing.cancel()
    assert "<svg" in paths.report.read_text()


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    EventLog(tmp_path / "no-such-directory" / "events.jsonl").note("run_failed", message="x")
    with pytest.raises(OSError):
        EventLog(tmp_path / "no-such-directory" / "events.jsonl").write("run_failed", message="x")
