"""Pairs and examples out of files of samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main


def sample(prompt: str, completion: str, reward: float | None = None, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "reward": reward, "right": reward == 1.0, **more}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(out: Path, *arguments: str) -> list[dict[str, str]]:
    assert main(["pairs", *arguments, "--out", str(out)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


GRADED = (
    sample("a", "right", 1.0),
    sample("a", "wrong", 0.0),
    sample("a", "wronger", -1.0),
    sample("a", "cut", 1.0, truncated=True),
    sample("b", "right", 1.0),
    sample("b", "also right", 1.0),
    sample("c", "unjudged"),
    sample("c", "right", 1.0),
)


def test_samples_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "graded.jsonl"
    write(path, *GRADED)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert make(tmp_path / "pairs.jsonl", str(path))


def test_graded_pairs_set_better_against_worse_of_the_same_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "graded.jsonl", *GRADED)
    rows = make(tmp_path / "pairs.jsonl", path, "--pairs-per-prompt", "9")
    assert {(r["chosen"], r["rejected"]) for r in rows} == {
        ("right", "wrong"),
        ("right", "wronger"),
        ("wrong", "wronger"),
    }
    assert {r["prompt"] for r in rows} == {"a"}
    wide = make(tmp_path / "wide.jsonl", path, "--pairs-per-prompt", "9", "--margin", "1.5")
    assert [(r["chosen"], r["rejected"]) for r in wide] == [("right", "wronger")]
    assert make(tmp_path / "one.jsonl", path) == make(tmp_path / "again.jsonl", path)


def test_strong_stands_against_weak_on_prompts_that_both_answered(tmp_path: Path) -> None:
    strong = write(tmp_path / "s.jsonl", sample("a", "x", 1.0), sample("b", "x", 0.0), sample("d", "x"))
    weak = write(tmp_path / "w.jsonl", sample("a", "y", 0.0), sample("b", "y", 1.0), sample("d", "x"), sample("d", "z"))
    rows = make(tmp_path / "pairs.jsonl", strong, "--weak", weak)
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in rows] == [("a", "x", "y"), ("d", "x", "z")]


def test_examples_keep_whole_completions_and_on_request_right_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "graded.jsonl", *GRADED)
    assert len(make(tmp_path / "all.jsonl", path, "--examples")) == 7
    right = make(tmp_path / "right.jsonl", path, "--examples", "--right-only")
    assert {r["completion"] for r in right} == {"right", "also right"}


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([sample("a", "x", 1.0)], [], "1 samples make no pair"),
        ([{"prompt": "a"}], [], "line 1: needs prompt and completion"),
        ([sample("a", "x", 1.0) | {"reward": "high"}], [], "reward is 'high'"),
        ([sample("a", "x", 1.0)], ["--pairs-per-prompt", "0"], "--pairs-per-prompt: is 0"),
        ([sample("a", "x", 1.0)], ["--weak", "/none"], "cannot be read"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    arguments: list[str],
    message: str,
) -> None:
    path = write(tmp_path / "graded.jsonl", *rows)
    assert main(["pairs", path, *arguments, "--out", str(tmp_path / "out.jsonl")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "graded.jsonl", *GRADED)
    assert main(["pairs", path, "--out", path]) == 1
    assert "exists already" in capsys.readouterr().err
