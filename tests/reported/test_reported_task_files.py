"""Task, case and configuration files as public reports brought them."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlserve import plugins
from rlserve.cli.main import main
from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.verifiers.code.verifier import CodeVerifier
from rlserve.verifiers.math.verifier import MathVerifier
from tests.support.reported import cases

GOLD_KINDS = ("math-solution-box", "answers-that-are-numbers")
KINDS = (*GOLD_KINDS, "mbpp-test-imports", "code-rows-unchecked", "bom")
MARK = b"\xef\xbb\xbf"
GSM8K = {"question": "How many?", "answer": "So.\n#### 4"}
CONFIGURATIONS = Path(__file__).parents[2] / "configs"


def made(directory: Path, name: str, row: Any, before: bytes = b"") -> Any:
    """The environment ``name`` with a file of one row."""
    path = directory / "tasks.jsonl"
    path.write_bytes(before + json.dumps(row).encode() + b"\n")
    # One environment reads every kind of file now.
    return plugins.load(plugins.ENVIRONMENT_GROUP, {"jsonl": "dataset"}.get(name, name))(path=str(path))


@pytest.mark.parametrize("row", cases(*GOLD_KINDS))
def test_the_gold_answer_of_a_row_is_read(row: dict[str, Any], tmp_path: Path) -> None:
    given = row["input"]
    task_row = given.get("row") or {"problem": "How much?", "solution": given["solution"]}
    payload = made(tmp_path, given["env"], task_row).task("train", 0, 0).payload
    gold = row["expected"].removeprefix("gold ").split(" from ")[0].split(", as ")[0].strip("'")
    assert MathVerifier().verify(f"\\boxed{{{gold}}}", payload, "").reward == 1.0
    assert MathVerifier().verify("\\boxed{7}", payload, "").reward == 0.0


@pytest.mark.parametrize("row", cases("mbpp-test-imports"))
def test_the_imports_of_tests_are_run(row: dict[str, Any], tmp_path: Path) -> None:
    environment = made(tmp_path, row["input"]["env"], row["input"]["row"])
    verifier = CodeVerifier()
    verdict = verifier.verify(environment.demonstration("train", 0, 0)[1], environment.task("train", 0, 0).payload, "")
    verifier.close()
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize("row", cases("code-rows-unchecked"))
def test_a_row_that_the_verifier_refuses_is_refused_when_it_is_read(row: dict[str, Any], tmp_path: Path) -> None:
    task_row = row["input"]["row"]
    if task_row == "kind stdio with 300 tests":
        tests = [{"input": str(n), "output": str(n)} for n in range(300)]
        task_row = {"prompt": "Echo.", "kind": "stdio", "tests": tests}
    try:
        payload = made(tmp_path, row["input"]["env"], task_row).task("train", 0, 0).payload
    except InvalidRequest as error:
        assert "line 1: tests" in str(error)
    else:
        assert row["expected"].endswith("or judged")
        CodeVerifier.check(payload)


@pytest.mark.parametrize("row", cases("bom"))
def test_a_byte_order_mark_is_no_trouble(
    row: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "env" in row["input"]:
        assert made(tmp_path, row["input"]["env"], GSM8K, before=MARK).splits == {"train": 1}
    else:
        path = tmp_path / "marked.toml"
        path.write_bytes(MARK + (CONFIGURATIONS / "quickstart.toml").read_bytes())
        assert main(["run", str(path), "--dry-run"]) == 0
        assert "quickstart" in capsys.readouterr().out
