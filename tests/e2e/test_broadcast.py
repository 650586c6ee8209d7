"""A whole run whose worker is on another host, as far as it knows, and gets its weights by broadcast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.whole, pytest.mark.timeout(900)]

ELSEWHERE = """
import sys
if "rollout" in sys.argv:
    from rlserve.weight_sync import host
    host.host_id = lambda: "elsewhere"
"""


def test_a_worker_elsewhere_gets_its_weights_by_broadcast(
    new_run: Callable[[str], Any],
    small_run_arguments: Callable[[Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = new_run("broadcast")
    run.start(*small_run_arguments(run), "--set", "steps=4", "--set", "sync.broadcast_address=127.0.0.1")
    assert run.wait(600) == 0, run.tail()
    run.wait_until_nothing_runs()
    worker = (run.root / "logs" / "rollout-0.log").read_text()
    assert worker.count("came by collective") >= 3, run.tail()
    assert "came by shared_file" not in worker and "asking for full_stream" not in worker
    assert not run.events("actor_died")
