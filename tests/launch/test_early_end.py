"""An actor that ends as if the run were over, while the learner goes on."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.launch import local
from rlserve.launch.local import LocalLauncher
from rlserve.launch.plan import LEARNER, ProcessSpec
from rlserve.observability.events import read_json_lines

ROOT = Path(__file__).parents[2]


def spec(name: str, kind: str, program: str) -> ProcessSpec:
    return ProcessSpec(name=name, kind=kind, command=(sys.executable, "-c", program), restartable=kind != LEARNER)


@pytest.mark.parametrize("learner_lives", [True, False])
async def test_an_actor_that_ends_before_the_learner_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner_lives: bool
) -> None:
    monkeypatch.setattr(local, "OVER_SECONDS", 0.5 if learner_lives else 60.0)
    paths = RunPaths(tmp_path)
    launcher = LocalLauncher(load_run([ROOT / "configs" / "quickstart.toml"]), paths)
    await launcher._start(spec(LEARNER, LEARNER, "import time; time.sleep(3600)" if learner_lives else "pass"))
    keeping = asyncio.create_task(launcher._keep_running(spec("rollout-0", "rollout", "pass")))
    try:
        async with asyncio.timeout(60):
            if not learner_lives:
                await keeping
                assert not paths.events.exists() or not list(read_json_lines(paths.events))
                return
            while not any(e["event"] == "actor_restarted" for e in read_json_lines(paths.events)):
                await asyncio.sleep(0.05)
        (died, *_) = [e for e in read_json_lines(paths.events) if e["event"] == "actor_died"]
        assert died["actor"] == "rollout-0" and died["said"] == local.EARLY
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await launcher.close()
