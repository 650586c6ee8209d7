"""The quick start learns, in flight, and accounts for every group."""

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_quick_start_learns_to_reason(quickstart: Any) -> None:
    summary = quickstart.summary()
    assert 0.35 <= summary["accuracy_before"] <= 0.65
    assert summary["accuracy_after"] >= 0.90
    assert summary["weight_updates"] >= summary["steps"] > 0


def test_the_summary_holds_what_it_promises(quickstart: Any) -> None:
    summary = quickstart.summary()
    assert {"seed", "accuracy_before", "accuracy_after", "steps", "weight_updates", "tokens_per_second"} <= set(summary)
    assert {"total", "pretrain", "sft", "training"} <= set(summary["wall_seconds"])
    assert {"p50", "p99"} <= set(summary["stall_seconds"])
    assert {"p50", "max"} <= set(summary["lag"])
    groups = summary["groups"]
    assert groups["received"] == groups["consumed"] + groups["queued"] + sum(groups["dropped"].values())
    assert groups["consumed"] > 0


def test_weights_change_in_the_middle_of_sequences_and_lag_stays_bounded(quickstart: Any) -> None:
    rows = quickstart.metrics()
    assert any(row["lag/mixed_version_share"] > 0 for row in rows)
    assert max(row["lag/max"] for row in rows) <= 4


def test_trainer_and_generator_agree_at_every_step(quickstart: Any) -> None:
    rows = quickstart.metrics()
    assert all("algorithm/mismatch_kl" in row for row in rows)
    on_policy = [row["algorithm/mismatch_kl"] for row in rows if row["lag/max"] == 0]
    assert all(value < 1e-6 for value in on_policy)


def test_the_counts_add_up_at_every_step(quickstart: Any) -> None:
    for row in quickstart.metrics():
        assert row["groups/received"] == row["groups/consumed"] + row["groups/queued"] + row["groups/dropped"]


def test_everything_of_the_run_is_in_its_directory(quickstart: Any) -> None:
    for name in ("config.toml", "metrics.jsonl", "events.jsonl", "summary.json", "report.html", "groups.sqlite"):
        assert (quickstart.root / name).stat().st_size > 0
    newest = sorted((quickstart.root / "checkpoints").iterdir())[-1]
    config = json.loads(next(newest.rglob("config.json")).read_text())
    assert config["architectures"]
    assert "<svg" in (quickstart.root / "report.html").read_text()


def test_no_process_outlives_the_run(quickstart: Any) -> None:
    quickstart.wait_until_nothing_runs()
