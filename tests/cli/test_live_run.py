"""One life of a run, as far as it needs no actors."""

import asyncio
import io
from pathlib import Path

import pytest

from rlserve.cli import live_run
from rlserve.cli.live_run import LiveRun
from rlserve.cli.progress import Progress
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.launch.directory import write_config
from rlserve.observability.events import EventLog
from rlserve.observability.metrics import MetricsFile

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"


async def test_the_report_is_written_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_run, "REPORT_POLL_SECONDS", 0.01)
    paths = RunPaths(tmp_path)
    config = load_run([QUICK], ["launch.report_every_steps=2"])
    write_config(config, paths)
    with MetricsFile(paths.metrics) as file:
        file.write(1, {"received/reward_mean": 0.5})
    live = LiveRun(config, paths, resume=False, digest="")
    with Progress("t", io.StringIO()) as progress:
        writing = asyncio.create_task(live._report_now_and_then(progress))
        await asyncio.sleep(0)  # it begins at step 0
        progress.state.step = 1
        await asyncio.sleep(0.1)
        assert not paths.report.exists()
        progress.state.step = 2
        async with asyncio.timeout(120):
            while not paths.report.exists():
                await asyncio.sleep(0.05)
        writing.cancel()
    assert "<svg" in paths.report.read_text()


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    EventLog(tmp_path / "no-such-directory" / "events.jsonl").note("run_failed", message="x")
    with pytest.raises(OSError):
        EventLog(tmp_path / "no-such-directory" / "events.jsonl").write("run_failed", message="x")
