"""Runs that starve: the last words say how many groups came and why none could be trained on."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlserve.actors.learner import waiting
from rlserve.actors.learner.waiting import Waits
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import DeadlineExceeded
from rlserve.observability.warner import Warner
from tests.support.clock import ManualClock
from tests.support.intake import answer, lease_out, make_inbox, offer
from tests.support.reported import cases

KINDS = ("starved-run-message",)


@pytest.mark.parametrize("case", cases(*KINDS))
def test_a_run_that_no_answer_solves_says_so(
    case: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a whole run: ``tests/e2e/test_starved_runs.py``."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)
    number, reason = re.findall(r"says that (\d+) groups came and all were dropped as (\w+)", case["expected"])[0]
    seconds = float(re.findall(r"max_wait_seconds (\d+)", case["input"]["how"])[0])
    clock = ManualClock()
    inbox = make_inbox(tmp_path / "groups.sqlite", max_outstanding=16, clock=clock)
    left = int(number)

    def unsolved() -> None:
        nonlocal left
        leases = lease_out(inbox, "rollout-0", capacity=16)[:left]
        for lease in leases:
            offer(inbox, answer(lease, rewards=(0.0, 0.0), worker_id="rollout-0"))
        left -= len(leases)
        clock.advance(seconds / (int(number) / 16))

    config = LearnerConfig(groups_per_step=8, max_wait_seconds=seconds)
    waits = Waits(inbox, config, warn=Warner(tmp_path / "events.jsonl"), check=unsolved, clock=clock)
    with pytest.raises(DeadlineExceeded) as caught:
        waits.batch()
    said = str(caught.value)
    assert f"{number} received, {number} dropped: {number} {reason} (all rewards 0)" in said
    assert f"{number} {reason} (all samples of a task have the same reward)" in said
