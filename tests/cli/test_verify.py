"""``rlserve verify``: a file of cases in, a file of verdicts out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlserve.cli.main import main
from rlserve.cli.verify import verify_file
from rlserve.config.actors import VerifierConfig
from rlserve.errors import InvalidRequest, UnknownName

CASES = [
    {"id": "a", "gold": "42", "answer": "\\boxed{42}", "expected": True},
    {"id": "b", "gold": "42", "answer": "41", "expected": False},
    {"id": "c", "gold": "1/2", "answer": "0.5", "expected": False},
    {"id": 4, "gold": "\ud800", "answer": "\u00bd"},
]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_case_has_one_verdict_line_in_order(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "verdicts.jsonl"
    summary = verify_file(
        "math",
        write(tmp_path / "cases.jsonl", *CASES),
        out,
        config=VerifierConfig(workers=1),
        progress=lambda done, total: seen.append((done, total)),
    )
    lines = read(out)
    assert [line["id"] for line in lines] == ["a", "b", "c", "4"]
    assert [(line["outcome"], line["reward"]) for line in lines[:3]] == [("pass", 1.0), ("fail", 0.0), ("pass", 1.0)]
    assert set(lines[0]) == {"id", "outcome", "reward", "passed", "total", "reason", "seconds"}
    assert (summary.unexpected, summary.num_expected) == (("c",), 3)
    assert sorted(seen) == [(done, 4) for done in range(1, 5)]
    assert list(tmp_path.glob("*.partial")) == []


def test_any_registered_verifier_takes_completions_and_payloads(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "#6", "payload": {"answer": "6", "marker": "#"}},
        {"id": "b", "completion": "6", "payload": {}},
    ]
    summary = verify_file("exact", write(tmp_path / "cases.jsonl", *rows), tmp_path / "out.jsonl")
    lines = read(tmp_path / "out.jsonl")
    assert [(line["outcome"], line["reward"]) for line in lines] == [("pass", 1.0), ("no_verdict", None)]
    assert summary.num_without_verdict == 1


def test_the_command_says_how_many_are_as_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = write(tmp_path / "cases.jsonl", *CASES[:3])
    assert main(["verify", "math", str(cases), "--out", str(tmp_path / "out.jsonl"), "--workers", "1"]) == 0
    assert capsys.readouterr().out == "3 cases: 1 fail, 2 pass\nas expected: 2 of 3\n  not as expected: c\n"


def test_options_reach_the_verifier(tmp_path: Path) -> None:
    cases = write(tmp_path / "cases.jsonl", {"id": "a", "gold": "50\\%", "answer": "50"})
    out = tmp_path / "out.jsonl"
    arguments = ["verify", "math", str(cases), "--out", str(out), "--workers", "1"]
    main(arguments)
    assert read(out)[0]["reward"] == 0.0
    main([*arguments, "--option", "percent=lenient"])
    assert read(out)[0]["reward"] == 1.0


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"id": 1}', '{"id": 1, "gold": "4", "answer": 4}', '{"gold": "4", "answer": "4"}']
)
def test_a_line_that_is_no_case_is_named_and_nothing_is_judged(tmp_path: Path, line: str) -> None:
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(CASES[0]) + "\n\n" + line + "\n")
    with pytest.raises(InvalidRequest, match="line 3 is no math case"):
        verify_file("math", cases, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_file_and_an_unknown_verifier_are_errors_for_people(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        verify_file("math", tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(UnknownName, match="'maths' is not registered"):
        verify_file("maths", write(tmp_path / "cases.jsonl"), tmp_path / "out.jsonl")


def test_every_strict_case_of_the_shared_file_comes_out_as_expected(tmp_path: Path) -> None:
    path = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[3] / "shared")) / "data/adversarial_math.jsonl"
    if not path.exists():
        pytest.skip("RLSERVE_SHARED names no folder with data/adversarial_math.jsonl")
    out = tmp_path / "out.jsonl"
    summary = verify_file("math", path, out)
    strict = {row["id"] for row in read(path) if row["strict"]}
    assert strict.isdisjoint(summary.unexpected)
    assert summary.num_without_verdict == 0
    assert max(line["seconds"] for line in read(out)) < 2.0
