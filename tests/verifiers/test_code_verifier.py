"""The code verifier: payloads at the border, programs out of completions, verdicts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rlserve.errors import InvalidRequest, NotReady
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.code.extract import program_in, with_prefix
from rlserve.verifiers.code.payload import decode_payload
from rlserve.verifiers.code.verifier import CodeVerifier

STDIO = {"kind": "stdio", "tests": [{"input": "1\n", "output": "2"}, {"input": "2\n", "output": "3"}]}
FUNCTION = {"kind": "function", "entry_point": "f", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}
CALLS = {"kind": "calls", "entry_point": "f", "tests": [{"args": [1], "output": 2}, {"args": [2], "output": 3}]}


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    made = CodeVerifier(cpu_seconds=1, wall_seconds=3)
    made.prepare()
    yield made
    made.close()


def judge(verifier: CodeVerifier, completion: str, payload: Any) -> Verdict:
    return verifier.verify(completion, json.dumps(payload).encode(), "")


@pytest.mark.parametrize(
    ("payload", "right", "half"),
    [
        (STDIO, "print(int(input()) + 1)", "input(); print(2)"),
        (FUNCTION, "def f(x): return x + 1", "def f(x): return 2"),
        (CALLS, "def f(x): return x + 1", "def f(x): return 2"),
    ],
)
def test_reward_is_all_or_nothing_unless_the_task_says_otherwise(
    verifier: CodeVerifier, payload: dict[str, Any], right: str, half: str
) -> None:
    full, none, share = (
        judge(verifier, right, payload),
        judge(verifier, half, payload),
        judge(verifier, half, payload | {"partial": True}),
    )
    assert (full.outcome, full.reward, full.passed, full.total) == (Outcome.PASS, 1.0, 2, 2)
    assert (none.outcome, none.reward, none.passed, none.total) == (Outcome.FAIL, 0.0, 1, 2)
    assert (share.reward, share.parts["tests"]) == (0.5, 0.5)
    assert full.isolation == verifier.isolation != ""


def test_a_program_that_cannot_be_judged_is_rejected_or_crashes_but_always_judged(verifier: CodeVerifier) -> None:
    for completion in ("", "\x00", "\ud800", "((" * 5000, "def f(x: return", "x" * 300_000):
        verdict = judge(verifier, completion, FUNCTION)
        assert verdict.outcome in (Outcome.CRASH, Outcome.REJECTED), completion[:20]
        assert verdict.reward == 0.0


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"kind": "shell", "tests": ["x"]}, "kind"),
        ({"kind": "function"}, "tests"),
        ({"kind": "function", "tests": "assert ("}, "tests"),
        ({"kind": "function", "tests": [1]}, "tests"),
        ({"kind": "stdio", "tests": []}, "tests"),
        ({"kind": "stdio", "tests": [{"input": 1, "output": ""}]}, r"tests\[0\].input"),
        ({"kind": "calls", "tests": [{"args": [], "output": 1}]}, "entry_point"),
        ({"kind": "calls", "entry_point": "f", "tests": [{"args": 1, "output": 1}]}, r"tests\[0\]"),
        (STDIO | {"cpu_seconds": -1}, "cpu_seconds"),
        (STDIO | {"cpu_seconds": True}, "cpu_seconds"),
        (STDIO | {"memory_bytes": 1.5}, "memory_bytes"),
        (STDIO | {"partial": "yes"}, "partial"),
        (STDIO | {"extra": 1}, "extra"),
        (STDIO | {"prefix": 3}, "prefix"),
    ],
)
def test_a_bad_payload_is_refused_by_field(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"payload\.{field}"):
        decode_payload(json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("x = 1", "x = 1"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\na\n```\n```py\nb\n```\n```\nc\n```", "b\n"),
        ("```python\na\n```\n```python\nb\n```", "b\n"),
        ("```bash\nls\n```\n```\nc\n```", "c\n"),
        ("```python\ncut off", "cut off"),
        (
            "def f():\n    '''\n    ```\n    doc\n    ```\n    '''",
            "def f():\n    '''\n    ```\n    doc\n    ```\n    '''",
        ),
    ],
)
def test_the_program_is_taken_out_of_its_fences(completion: str, program: str) -> None:
    assert program_in(completion) == program


ADD = "def f(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{ADD}```\nTry it:\n```python\nfrom solution import f\nprint(f(1, 2))\n```",
        f"```python\n{ADD}```\nTry it:\n```python\nfrom .main import f\nprint(f(1, 2))\n```",
        f"```python\n\ufeff{ADD}```",
        "```python\r" + ADD.replace("\n", "\r") + "```\r",
        f"<ANSWER>\n{ADD}</ANSWER>",
        f"<python>\n{ADD}</python>",
        f"Sure! Here it is:\n\n{ADD}\nThis adds.",
        f"```python\nf = max\n```\nNo:\n```python\n{ADD}```",
    ],
)
def test_the_program_is_what_defines_the_name(completion: str) -> None:
    assert program_in(completion, ["f"]).strip() == ADD.strip()


def test_an_imported_function_is_a_program() -> None:
    completion = "```python\nf = max\n```\nShorter:\n```python\nfrom operator import add as f\n```"
    assert program_in(completion, ["f"]) == "from operator import add as f\n"


@pytest.mark.parametrize("head", ["", "from itertools import *\nfrom heapq import *\nfrom typing import *\n"])
def test_a_class_solution_has_leetcodes_imports_and_its_own_methods(verifier: CodeVerifier, head: str) -> None:
    program = (
        head + "class Solution:\n    @staticmethod\n    def merge(a: List[int]) -> int:\n        return sum(a) + 1"
    )
    right = {"kind": "calls", "entry_point": "merge", "tests": [{"args": [[1, 2]], "output": 4}]}
    assert judge(verifier, program, right).outcome is Outcome.PASS
    tests = "assert Solution().merge([1, 2]) == 4"
    assert judge(verifier, program, {"kind": "function", "entry_point": "Solution", "tests": tests}).reward == 1.0
    wrong = {"kind": "calls", "entry_point": "merge", "tests": [{"args": [[1, 2]], "output": 3}]}
    assert judge(verifier, program, wrong).outcome is Outcome.FAIL


def test_a_body_continues_the_prefix_and_a_whole_function_follows_it() -> None:
    prefix = "import math\ndef f(x):\n    '''Root.'''\n"
    body = "    return math.sqrt(x)\n"
    whole = "def f(x):\n    return math.sqrt(x)\n"
    assert with_prefix(body, prefix, "f") == prefix + body
    assert with_prefix(whole, prefix, "f") == f"{prefix}\n\n{whole}"
    assert with_prefix(whole, "def f(x):\n", "f") == whole
    assert with_prefix("from __future__ import annotations\n" + whole, prefix, "f").startswith("from __future__")


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(NotReady, match=r"min_tier.*known: namespaces"):
        CodeVerifier(min_tier="docker")
