"""A few pairs to both judges, in real processes; the long run is ``rlserve bench verifier --only differential``."""

import json
from pathlib import Path

import pytest

from rlserve.bench.verdicts.differential import compare
from rlserve.bench.verdicts.judge_process import JudgeProcess
from rlserve.errors import InvalidRequest


def test_both_judges_get_every_pair_and_disagreements_are_written(tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    rows = [("600", "6\\text{ hundred}", True), ("6", "6\\text{ hundred}", False), ("1/2", "0.5", True)]
    cases.write_text("".join(json.dumps({"gold": g, "answer": a, "expected": e}) + "\n" for g, a, e in rows))
    found = compare(answers=[str(cases)], pairs=40, out=str(tmp_path / "out"), workers=1)
    assert found["pairs"] == 40
    assert "ours right 40" in found["all"] and "ours passes a wrong answer 0" in found["all"]
    written = Path(found["disagreements"]).read_text(encoding="utf-8").splitlines()
    assert len(written) == 40 - int(found["all"].split("agree ")[1].split(",")[0])
    assert Path(found["our_mistakes"]).read_text() == ""


def test_a_judge_that_dies_says_so_and_works_on(tmp_path: Path) -> None:
    judge = JudgeProcess("ours")
    try:
        judge.ask("5", "5")
        assert judge.verdict() == "equal"
        assert judge._process is not None
        judge._process.kill()
        judge._process.wait()
        judge.ask("5", "5")
        assert judge.verdict() == "error: died"
        judge.ask("5", "6")
        assert judge.verdict() == "different"
    finally:
        judge.close()


def test_too_few_answers_are_refused_with_the_option_that_helps(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--answers"):
        compare(answers=[str(tmp_path / "absent.jsonl")], pairs=5, out=str(tmp_path), workers=1)
