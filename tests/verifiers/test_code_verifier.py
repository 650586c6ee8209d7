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
