"""The GPU bench rehearsed at tiny sizes on the CPU: the same stages, processes and files as on a GPU."""

from pathlib import Path

import pytest

from rlserve.bench.gpu import bench
from rlserve.bench.gpu.rows import read_rows, write_rows
from rlserve.errors import InvalidRequest


@pytest.mark.whole  # it compiles: a minute and more on a CPU
def test_the_learner_s_options_are_rehearsed(tmp_path: Path) -> None:
    ends = bench.measure(out=str(tmp_path / "out"), minutes=20, only=["learner"])
    assert list(ends) == ["learner"]
    rows = read_rows(tmp_path / "out", "learner")
    # Liger's kernels run on a GPU alone.
    assert [row["what"] for row in rows if "failed" in row] == ["small, liger, packed"]
    assert all(row["step_ms"] > 0 for row in rows if "step_ms" in row)
    assert rows[-1]["tokens"] == 4 * 256 and rows[-1]["ms"] > 0


@pytest.mark.whole
def test_engine_swaps_and_the_whole_run_are_rehearsed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bench.measure(out=str(out), minutes=20, only=["engine", "whole_run"])
    engine = {row["what"]: row for row in read_rows(out, "engine")}
    assert engine["tokens per second"]["ratio"] > 0
    assert engine["swap 2"]["stall_ms"] > 0
    stamps = engine["stamps under swaps"]
    assert (stamps["wrong"], stamps["clear"] > 0, stamps["versions"] > 1) == (0, True, True)
    assert stamps["max_error_nats"] < 1e-3
    run = {row["what"]: row for row in read_rows(out, "whole_run")}
    assert (run["run"]["exit"], run["run"]["weight_mismatches"]) == (0, 0)
    assert run["learner/step_seconds"]["median"] > 0


def test_a_stage_that_is_cut_off_keeps_its_rows_and_one_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "STAGES", (bench.Stage("absent", 1.0), bench.Stage("learner", 1.0)))
    ends = bench.measure(out=str(tmp_path / "out"), minutes=0.02)  # 1.2 s: before torch is imported
    assert "ModuleNotFoundError" in ends["absent"] or "cut off" in ends["absent"]
    assert "cut off" in ends["learner"] or "not run" in ends["learner"]
    write_rows(tmp_path, "learner", [{"what": "a", "ms": 1}])
    with open(tmp_path / "learner.jsonl", "a", encoding="utf-8") as file:
        file.write('{"what": "b", "m')
    assert read_rows(tmp_path, "learner") == [{"what": "a", "ms": 1}]


def test_an_unknown_stage_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="engine, whole_run, learner, engine_large"):
        bench.measure(out=str(tmp_path), only=["learn"])
