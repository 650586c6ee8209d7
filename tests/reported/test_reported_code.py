"""Programs of public reports, and their siblings, through the real verifier."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlserve.errors import InvalidRequest
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.code.verifier import CodeVerifier
from tests.support.reported import cases

KINDS = (
    "code-last-block-is-not-the-program",
    "code-fence-forms",
    "code-no-fence",
    "code-leetcode",
    "code-stdout-numbers",
    "code-tests-see-plain-values",
    "code-interpreter-differs",
    "code-tests-that-cannot-pass",
)
ADD = "def add(a, b):\n    return a + b"
DEMO = "print(add(1, 2))"
PAYLOAD = {"kind": "function", "entry_point": "add", "tests": "assert add(1, 2) == 3\nassert add(-1, 1) == 0"}


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    made = CodeVerifier()
    made.prepare()
    yield made
    made.close()


def judge(verifier: CodeVerifier, completion: str, payload: Any = PAYLOAD) -> Verdict:
    return verifier.verify(completion, json.dumps(payload).encode(), "")


@pytest.mark.parametrize("row", cases(*KINDS))
def test_a_reported_program_gets_its_verdict(verifier: CodeVerifier, row: dict[str, Any]) -> None:
    payload = row["input"]["payload"]
    if isinstance(payload, str):  # described, since it is long
        payload = {"kind": "stdio", "tests": [{"input": "", "output": "\n".join(map(str, range(200_000)))}]}
    verdict = judge(verifier, row["input"]["completion"], payload)
    assert verdict.outcome is Outcome.PASS, verdict  # those called unclear pass in plain Python


def indented(text: str, by: str) -> str:
    return "\n".join(by + line for line in text.split("\n"))


FORMS = {
    "three marks": f"```python\n{ADD}\n```",
    "four marks": f"````python\n{ADD}\n````",
    "tildes": f"~~~\n{ADD}\n~~~~",
    "a longer fence around a shorter one": f"````markdown\n```python\nadd = 1\n```\n````\n\n```python\n{ADD}\n```",
    "CRLF": f"Text\n```python\n{ADD}\n```\n".replace("\n", "\r\n"),
    "in a list": f"1. So:\n\n   ```python\n{indented(ADD, '   ')}\n   ```\n2. Done.",
    "in a list in a list": f"- a\n    - b\n\n      ```python\n{indented(ADD, '      ')}\n      ```\n",
    "on a list's line": f"- ```python\n{indented(ADD, '  ')}\n  ```",
    "in a quotation": f"> ```python\n{indented(ADD, '> ')}\n> ```",
    "fences indented, program not": f"   ```python\n{ADD}\n   ```",
    "program indented, fences not": f"```python\n{indented(ADD, '    ')}\n```",
    "closing fence glued": f"```python\n{ADD}```",
    "closing fence glued, text behind": f"```python\n{ADD}```\nIt adds.\n```\n3\n```",
    "opening fence glued": f"Here: ```python\n{ADD}\n```",
    "closing fence left over": f"{ADD}\n```",
    "closing fence left over, text behind": f"{ADD}\n```\nIt adds both numbers.",
    "closing fence left over, demonstration behind": f"{ADD}\n```\nUse:\n```python\n{DEMO}\n```",
    "never closed": f"Text\n```python\n{ADD}",
    "never closed before the next": f"```python\n{ADD}\n\n```python\n{DEMO}\n```",
    "on one line": "```python def add(a, b): return a + b```",
    "demonstration behind": f"```python\n{ADD}\n```\n```python\n{DEMO}\n```",
    "test behind": f"```python\n{ADD}\n```\n```python\ndef test_add():\n    assert add(1, 2) == 4\n```",
    "shell behind": f"```python\n{ADD}\n```\n```bash\npython add.py\n```",
    "output behind": f"```\n{ADD}\n```\n```\n3\n```",
    "program without a language, demonstration with one": f"```\n{ADD}\n```\n```python\n{DEMO}\n```",
    "helper in a block before": "```python\ndef sum_of(x):\n    return sum(x)\n```\n```python\ndef add(a, b):\n"
    "    return sum_of([a, b])\n```",
    "a better one behind": f"```python\ndef add(a, b): return a - b\n```\nNo:\n```python\n{ADD}\n```",
    "tags": f"<answer>\n{ADD}\n</answer>",
    "fence in tags": f"<think>hm</think>\n<answer>```python\n{ADD}\n```</answer>",
    "thoughts with a program": f"<think>\n```python\ndef add(a, b): return 0\n```\n</think>\n```python\n{ADD}\n```",
    "thoughts that nothing opened": f"```python\nadd = 0\n```\n</think>\n{ADD}",
    "prose around": f"Here is the function you want:\n\n{ADD}\n\nIt adds both of its arguments.",
    "an indented block": f"So:\n\n{indented(ADD, '    ')}\n\nDone.",
    "brackets": f"[PYTHON]\n{ADD}\n[/PYTHON]",
    "an end token": f"{ADD}<|im_end|>",
    "a method": "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```\n```python\n"
    "print(Solution().add(1, 2))\n```",
    "a lambda": f"```python\nadd = lambda a, b: a + b\n```\n```python\n{DEMO}\n```",
} | {
    f"info string {info}": f"```{info}\n{ADD}\n```\n```{info}\n{DEMO}\n```"
    for info in (
        "Python",
        " python",
        "py",
        "python3",
        "python 3",
        "{python}",
        "{.python .numberLines}",
        'python title="a"',
    )
}


@pytest.mark.parametrize("form", FORMS)
def test_a_program_is_found_in_every_form(verifier: CodeVerifier, form: str) -> None:
    verdict = judge(verifier, FORMS[form])
    assert verdict.outcome is Outcome.PASS, verdict


@pytest.mark.parametrize(
    "completion",
    [
        f"<think>\n```python\n{ADD}\n```",  # nothing was answered
        f"<think>{ADD}</think>I do not know.",
        f"```python\n{ADD}\n```\nBetter:\n```python\ndef add(a, b): return a - b\n```",
        "```python\ndef add(a, b):\n    return a",
        "",
        "```python\n```",
    ],
)
def test_what_is_no_right_program_never_passes(verifier: CodeVerifier, completion: str) -> None:
    verdict = judge(verifier, completion)
    assert (verdict.outcome is Outcome.PASS, verdict.reward) == (False, 0.0), verdict


@pytest.mark.parametrize(
    "completion",
    [
        "def add(a, b):\n    mark = '</think>'\n    return a + b",
        'def add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b',
        '```python\ndef add(a, b):\n    """\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n```',
    ],
)
def test_a_program_that_writes_about_marks_is_a_program(verifier: CodeVerifier, completion: str) -> None:
    assert judge(verifier, completion).outcome is Outcome.PASS


FEED = {"kind": "stdio", "tests": [{"input": "4\n", "output": "8"}]}
DOUBLE = "n = int(input())\nprint(2 * n)"


@pytest.mark.parametrize(
    "completion",
    [
        f"```python\n{DOUBLE}\n```\nFor input\n```\n4\n```\nit prints\n```\n8\n```",
        f"```python\n{DOUBLE}\n```\n```python\nprint(2 * 4)\n```",
        f"```\n{DOUBLE}\n```\n```\n8\n```",
        "```python\ndef double(n): return 2 * n\n```\n```python\nprint(double(int(input())))\n```",
        f"<answer>\n{DOUBLE}\n</answer>",
        DOUBLE,
    ],
)
def test_a_program_that_reads_is_told_from_a_sample(verifier: CodeVerifier, completion: str) -> None:
    verdict = judge(verifier, completion, FEED)
    assert verdict.outcome is Outcome.PASS, verdict


NODE = "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val = val\n        self.next = next\n"
LIST = "def make(xs):\n    head = None\n    for x in reversed(xs):\n        head = ListNode(x, head)\n    return head\n"
LIST += "def values(head):\n    found = []\n    while head:\n        found.append(head.val)\n        head = head.next\n"
LIST += "    return found\n"
TREE = "class TreeNode:\n    def __init__(self, val=0, left=None, right=None):\n        self.val = val\n"
TREE += "        self.left, self.right = left, right\n"
REVERSE = "class Solution:\n    def reverse(self, head):\n        last = None\n        while head:\n"
REVERSE += "            head.next, last, head = last, head, head.next\n        return last\n"
DEPTH = "class Solution:\n    def depth(self, root):\n"
DEPTH += "        return 1 + max(self.depth(root.left), self.depth(root.right)) if root else 0\n"
LOWEST = "class Solution:\n    def lowest(self, root, p, q):\n        while root:\n"
LOWEST += "            if p.val < root.val > q.val: root = root.left\n"
LOWEST += "            elif p.val > root.val < q.val: root = root.right\n            else: return root\n"


@pytest.mark.parametrize(
    ("program", "payload"),
    [
        (
            "class Solution:\n    def twice(self, x):\n        return 2 * x",
            {
                "kind": "calls",
                "entry_point": name,
                "tests": [{"args": [2], "output": 4}, {"args": ["a"], "output": "aa"}],
            },
        )
        for name in ("twice", "Solution().twice")
    ]
    + [
        (
            "class Solution:\n    seen = 0\n    def f(self, x):\n        self.seen += 1\n        return self.seen",
            {"kind": "calls", "entry_point": "f", "tests": [{"args": [2], "output": 1}, {"args": [3], "output": 1}]},
        ),
        (
            REVERSE,
            {
                "kind": "function",
                "entry_point": "Solution().reverse",
                "prefix": NODE + LIST,
                "tests": "def check(candidate):\n    assert values(candidate(head=make([1, 2, 3]))) == [3, 2, 1]\n"
                "    assert candidate(None) is None\n"
                "    assert values(candidate(make(range(5000))))[:2] == [4999, 4998]",
            },
        ),
        (
            REVERSE,
            {
                "kind": "function",
                "entry_point": "Solution",
                "tests": f"{NODE}{LIST}assert values(Solution().reverse(make([1, 2]))) == [2, 1]",
            },
        ),
        (
            DEPTH,
            {
                "kind": "function",
                "entry_point": "depth",
                "prefix": TREE,
                "tests": "root = TreeNode(1, TreeNode(2), TreeNode(3, TreeNode(4)))\n"
                "assert depth(root) == 3\nassert depth(None) == 0",
            },
        ),
        (
            LOWEST,
            {
                "kind": "function",
                "entry_point": "lowest",
                "prefix": TREE,
                "tests": "root = TreeNode(5, TreeNode(2, TreeNode(1)), TreeNode(9))\n"
                "assert lowest(root, root.left.left, root.left).val == 2\n"
                "assert lowest(root, root.left, root.right).val == 5",
            },
        ),
        (
            "class Solution:\n    def insert(self, head):\n        head.next = ListNode(9, head.next)",
            {
                "kind": "function",
                "entry_point": "insert",
                "prefix": NODE + LIST,
                "tests": "head = make([1, 2])\ninsert(head)\nassert values(head) == [1, 9, 2]",
            },
        ),
    ],
)
def test_solutions_in_a_class_are_judged(verifier: CodeVerifier, program: str, payload: Any) -> None:
    verdict = judge(verifier, program, payload)
    assert verdict.outcome is Outcome.PASS, verdict
    wrong = judge(verifier, program.replace("return ", "return 0 and ").replace("ListNode(9", "ListNode(8"), payload)
    assert wrong.outcome is not Outcome.PASS, wrong


def test_an_object_cannot_bring_a_method_of_its_own_in_place_of_the_tests(verifier: CodeVerifier) -> None:
    tests = "class Box:\n    def __init__(self, x): self.x = x\n    def equals(self, o): return self.x == o.x\n"
    tests += "assert f(Box(1)).equals(Box(2))"
    forged = "def f(box):\n    box.equals = lambda other: True\n    return box"
    verdict = judge(verifier, forged, {"kind": "function", "entry_point": "f", "tests": tests})
    assert verdict.outcome is Outcome.REJECTED, verdict
    honest = judge(verifier, "def f(box):\n    box.x += 1\n    return box", {"kind": "function", "tests": tests})
    assert honest.outcome is Outcome.PASS, honest


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"kind": "stdio", "tests": [{"input": "", "output": "\ud800"}]}, r"tests\[0\].output"),
        ({"kind": "stdio", "tests": [{"input": "", "output": ""}] * 1025}, "tests"),
        ({"kind": "stdio", "tests": [{"input": "", "output": ""}], "memory_bytes": 2**24}, "memory_bytes"),
        ({"kind": "calls", "entry_point": "f", "tests": [{"args": ["x" * 2**23], "output": 1}]}, r"tests\[0\].args"),
        ({"kind": "calls", "entry_point": "f", "tests": [{"args": [], "output": "x" * 2**23}]}, r"tests\[0\].output"),
        ({"kind": "calls", "entry_point": "f(1)", "tests": [{"args": [], "output": 1}]}, "entry_point"),
        ({"kind": "function", "entry_point": "not a name", "tests": "assert f(1)"}, "entry_point"),
    ],
)
def test_tests_that_nobody_can_pass_are_refused_by_field(verifier: CodeVerifier, payload: Any, field: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"payload\.{field}"):
        judge(verifier, "def f(): pass", payload)


def test_a_thousand_tests_are_run_and_the_least_limits_can_be_met(verifier: CodeVerifier) -> None:
    many = {"kind": "calls", "entry_point": "f", "tests": [{"args": [i], "output": i} for i in range(1024)]}
    assert judge(verifier, "def f(x): return x", many).passed == 1024
    least = {"kind": "stdio", "tests": [{"input": "", "output": "1"}], "memory_bytes": 2**26, "cpu_seconds": 0.001}
    assert judge(verifier, "print(1)", least).outcome is Outcome.PASS


@pytest.mark.parametrize("row", cases("code-python-option"))
def test_the_packages_of_a_named_virtual_environment_can_be_imported(row: dict[str, Any], tmp_path: Path) -> None:
    assert "packages can be imported" in row["expected"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (packages,) = tmp_path.glob("lib/python3*/site-packages")
    (packages / "only_here.py").write_text("VALUE = 42")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    verifier = CodeVerifier(python=str(tmp_path / "bin" / "python"))
    verifier.prepare()
    try:
        program = "```python\nimport only_here\nprint(only_here.VALUE)\n```"
        verdict = judge(verifier, program, {"kind": "stdio", "tests": [{"input": "", "output": "42"}]})
        assert verdict.outcome is Outcome.PASS, verdict
    finally:
        verifier.close()
