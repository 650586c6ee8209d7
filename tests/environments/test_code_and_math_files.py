"""Programming and mathematics from files: rows become tasks whose own solutions score full marks."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlserve.environments.files.code_jsonl import CodeJsonlEnvironment
from rlserve.environments.files.humaneval import HumanEvalEnvironment
from rlserve.environments.files.math import MathEnvironment, last_box
from rlserve.environments.files.mbpp import MbppEnvironment
from rlserve.errors import InvalidRequest
from rlserve.records import Outcome
from rlserve.verifiers.code.verifier import CodeVerifier
from rlserve.verifiers.math.verifier import MathVerifier

SHARED = Path(os.environ.get("RLSERVE_SHARED", Path(__file__).parents[2].parent / "shared"))
HUMANEVAL = SHARED / "data" / "humaneval.jsonl"
MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements from the given two lists.",
    "code": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "test_setup_code": "",
    "test_list": ["assert set(similar_elements((3, 4), (5, 4))) == {4}", "assert similar_elements((), ()) == ()"],
}
STDIO = {
    "prompt": "Print the sum.",
    "kind": "stdio",
    "tests": [{"input": "1 2\n", "output": "3"}],
    "solution": "print(sum(map(int, input().split())))",
}


@pytest.fixture(scope="module")
def code() -> Iterator[CodeVerifier]:
    verifier = CodeVerifier()
    verifier.prepare()
    yield verifier
    verifier.close()


def rows(path: Path, *content: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="needs the shared data (RLSERVE_SHARED)")
def test_humaneval_bodies_and_fenced_functions_both_pass(code: CodeVerifier) -> None:
    environment = HumanEvalEnvironment(path=str(HUMANEVAL))
    assert environment.splits == {"test": 164}
    for index in range(0, 164, 20):
        task = environment.task("test", index, 0)
        prompt, body = environment.demonstration("test", index, 0)
        chat = f"Here it is:\n```python\n{prompt}{body}\n```\nDone."
        assert code.verify(body, task.payload, "").outcome is Outcome.PASS
        assert code.verify(chat, task.payload, "").outcome is Outcome.PASS
        assert code.verify("    pass\n", task.payload, "").outcome is not Outcome.PASS
        assert "solution" not in task.payload.decode()


def test_mbpp_rows_show_an_assert_and_hide_the_others(tmp_path: Path, code: CodeVerifier) -> None:
    environment = MbppEnvironment(path=rows(tmp_path / "mbpp.jsonl", MBPP))
    task = environment.task("train", 0, 0)
    assert MBPP["test_list"][0] in task.prompt[0].content  # type: ignore[union-attr]
    assert MBPP["test_list"][1] not in task.prompt[0].content  # type: ignore[union-attr]
    assert json.loads(task.payload)["entry_point"] == "similar_elements"
    _, solution = environment.demonstration("train", 0, 0)
    verdict = code.verify(solution, task.payload, "")
    assert (verdict.outcome, verdict.passed, verdict.total) == (Outcome.PASS, 2, 2)


def test_programs_with_input_and_output_come_from_files(tmp_path: Path, code: CodeVerifier) -> None:
    environment = CodeJsonlEnvironment(path=rows(tmp_path / "a.jsonl", STDIO), prompt_format="text", cpu_seconds=1.5)
    task = environment.task("train", 7, 0)
    assert task.prompt == "Print the sum."
    assert json.loads(task.payload)["cpu_seconds"] == 1.5
    assert code.verify(environment.demonstration("train", 0, 0)[1], task.payload, "").outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("make", "row", "problem"),
    [
        (MbppEnvironment, MBPP | {"test_list": []}, "line 1: test_list"),
        (CodeJsonlEnvironment, STDIO | {"kind": "shell"}, "line 1: kind"),
        (CodeJsonlEnvironment, STDIO | {"tests": []}, "line 1: tests"),
        (HumanEvalEnvironment, {"prompt": "x", "entry_point": "a b"}, "line 1: entry_point"),
        (MathEnvironment, {"problem": "x", "solution": "no box"}, "line 1: solution"),
        (MathEnvironment, {"problem": "x", "answer": None}, "line 1: solution"),
        (MathEnvironment, {"problem": "x", "answer": "", "solution": "no box"}, "line 1: solution"),
        (MathEnvironment, {"problem": "x", "answer": "$$"}, "line 1: answer"),
        (MathEnvironment, {"problem": "x", "answer": {"a": 1}}, "line 1: answer"),
        (MathEnvironment, {"problem": "x", "answer": True}, "line 1: answer"),
        (MathEnvironment, {"prompt": "x", "answer": "1"}, "line 1: problem: .*rename that column"),
        (MathEnvironment, {"problem": "x", "answer": "1", "solution": 5}, "line 1: solution: is 5"),
        (MbppEnvironment, MBPP | {"test_list": ["assert f("]}, "line 1: test_list: is not Python"),
        (MbppEnvironment, MBPP | {"test_imports": "import"}, "line 1: test_list: is not Python"),
        (MbppEnvironment, MBPP | {"test_imports": [1]}, "line 1: test_imports: is"),
        (MbppEnvironment, MBPP | {"test_setup_code": 5}, "line 1: test_setup_code: is 5"),
        (MbppEnvironment, MBPP | {"code": 5}, "line 1: code: is 5"),
        (CodeJsonlEnvironment, STDIO | {"tests": {"inputs": ["1"], "outputs": ["1"]}}, "line 1: tests: is not a list"),
        (CodeJsonlEnvironment, STDIO | {"tests": [{"input": ["1"], "output": ["1"]}]}, r"line 1: tests\[0\]\.input"),
        (CodeJsonlEnvironment, STDIO | {"tests": [{"input": "1"}]}, r"line 1: tests\[0\]\.output"),
        (CodeJsonlEnvironment, STDIO | {"tests": "print(1)"}, "line 1: tests: is not a list"),
        (CodeJsonlEnvironment, STDIO | {"kind": "function", "tests": "assert f("}, "line 1: tests: is not Python"),
        (CodeJsonlEnvironment, STDIO | {"kind": "function", "tests": [1]}, "line 1: tests: is not Python"),
        (CodeJsonlEnvironment, STDIO | {"kind": "calls", "tests": [{"args": [1], "output": 1}]}, "line 1: entry_point"),
        (CodeJsonlEnvironment, STDIO | {"kind": "calls", "entry_point": "f"}, r"line 1: tests\[0\]: needs args"),
        (CodeJsonlEnvironment, STDIO | {"prefix": 5}, "line 1: prefix: is not text"),
        (CodeJsonlEnvironment, STDIO | {"partial": "yes"}, "line 1: partial"),
        (CodeJsonlEnvironment, STDIO | {"cpu_seconds": -1}, "line 1: cpu_seconds"),
        (CodeJsonlEnvironment, STDIO | {"memory_bytes": 1}, "line 1: memory_bytes"),
        (CodeJsonlEnvironment, STDIO | {"solution": ["x"]}, "line 1: solution: is"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(tmp_path: Path, make: Any, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        make(path=rows(tmp_path / "bad.jsonl", row))


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("so \\boxed{4}", "4"),
        ("first \\boxed{1}, then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\fbox{7}", "7"),
        ("\\boxed{open", None),
        ("none", None),
        ("so \\boxed 5.", "5"),
        ("so \\boxed {5}.", "5"),
        ("so \\boxed\\frac{1}{2}.", "\\frac{1}{2}"),
        ("so \\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("so \\boxed{1 \\} 2}", "1 \\} 2"),
        ("$\\boxed{3}$ or $\\boxed{5}$.", "3, 5"),
        ("so \\boxed{4}, not \\boxed{}", "4"),
        ("so \\framebox{7}", "7"),
        ("so \\boxed\\text{(A)}", "\\text{(A)}"),
    ],
)
def test_the_last_box_is_the_answer(solution: str, answer: str | None) -> None:
    assert last_box(solution) == answer


@pytest.mark.parametrize(
    ("row", "sent"),
    [
        ({"answer": 204}, "204"),
        ({"answer": 0.5}, "0.5"),
        ({"answer": "\\frac{1}{2}"}, "\\frac{1}{2}"),
        ({"answer": ["3", 5]}, ["3", "5"]),
        ({"answer": None, "solution": "It is $\\boxed{5}$."}, "5"),
        ({"answer": "", "solution": "It is $\\boxed{5}$."}, "5"),
        ({"answer": " ", "solution": "It is $\\boxed{5}$."}, "5"),
        ({"answer": 7, "solution": "It is $\\boxed{5}$."}, "7"),
        ({"answer": 0, "solution": None}, "0"),
        ({"solution": "It is $\\boxed{3}$ or $\\boxed{5}$."}, "3, 5"),
    ],
)
def test_the_gold_answer_is_the_answer_or_what_the_solution_boxes(tmp_path: Path, row: Any, sent: Any) -> None:
    environment = MathEnvironment(path=rows(tmp_path / "math.jsonl", {"problem": "How much?"} | row))
    assert json.loads(environment.task("train", 0, 0).payload) == {"answer": sent}


@pytest.mark.parametrize(
    "row",
    [
        MBPP | {"challenge_test_list": [], "test_setup_code": "import math"},
        {k: v for k, v in MBPP.items() if k not in ("text", "test_setup_code")}
        | {"prompt": "Find it.", "test_imports": ["import math"], "source_file": "x.ipynb"},
        MBPP | {"test_imports": [], "test_setup_code": None},
        MBPP | {"test_imports": ["import math", "from math import pi"], "test_setup_code": "TWO = 2\nONE = 1"},
    ],
    ids=["full", "sanitized", "empty", "both"],
)
def test_both_files_of_mbpp_are_read_and_their_references_pass(
    tmp_path: Path, code: CodeVerifier, row: dict[str, Any]
) -> None:
    environment = MbppEnvironment(path=rows(tmp_path / "mbpp.jsonl", row))
    verdict = code.verify(environment.demonstration("train", 0, 0)[1], environment.task("train", 0, 0).payload, "")
    assert (verdict.outcome, verdict.passed) == (Outcome.PASS, 2), verdict.reason


def test_a_limit_that_no_program_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cpu_seconds: is -1"):
        CodeJsonlEnvironment(path=rows(tmp_path / "a.jsonl", STDIO), cpu_seconds=-1)


def test_a_competition_problem_is_judged_by_its_boxed_answer(tmp_path: Path) -> None:
    row = {"problem": "What is one half?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"}
    environment = MathEnvironment(path=rows(tmp_path / "math.jsonl", row))
    task = environment.task("train", 0, 0)
    assert task.labels == {"level": "Level 1"}
    assert MathVerifier().verify(environment.demonstration("train", 0, 0)[1], task.payload, "").reward == 1.0
    assert MathVerifier().verify("\\boxed{0.6}", task.payload, "").reward == 0.0


@pytest.mark.parametrize(("field", "value"), [("tests", "# none"), ("entry_point", "class")])
def test_a_row_that_every_program_would_pass_or_fail_is_refused(tmp_path: Path, field: str, value: str) -> None:
    row = {"prompt": "Double it.", "kind": "function", "entry_point": "f", "tests": "assert f(1) == 2"} | {field: value}
    with pytest.raises(InvalidRequest, match=field):
        CodeJsonlEnvironment(path=rows(tmp_path / "rows.jsonl", row))


def test_files_joined_with_the_mark_of_each_are_read(tmp_path: Path) -> None:
    path = tmp_path / "joined.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "a", "answer": 5}\n' * 2)
    assert MathEnvironment(path=str(path)).splits == {"train": 2}
