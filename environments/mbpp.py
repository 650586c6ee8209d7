"""MBPP (arXiv:2108.07732) and files of its form."""

import re
from collections.abc import Mapping
from typing import Any

from rlserve.environments.code_jsonl import INSTRUCTION, CodeEnvironment, CodeRow
from rlserve.environments.jsonl import read_rows, text_field
from rlserve.errors import InvalidRequest

CALL = re.compile(
    r"assert\s+(?:not\s+)?\(*\s*(?:\w+\.\w+\(|(?:set|sorted|list|tuple|abs|round|len|str|int|float)\()*\s*(\w+)\("
)


class MbppEnvironment(CodeEnvironment):
    """MBPP: a sentence that says what a function does, three asserts that judge it in the sandbox.

    Columns: ``task_id``, ``text`` or ``prompt``, ``code``, ``test_list``, and ``test_setup_code`` if there is any. The
    first ``shown_tests`` asserts are part of the prompt, so that the function's name is known.
    """

    name = "mbpp"

    def __init__(
        self,
        *,
        path: str,
        validation_path: str = "",
        test_path: str = "",
        shown_tests: int = 1,
        prompt_format: str = "chat",
        instruction: str = INSTRUCTION,
        cpu_seconds: float | None = None,
    ) -> None:
        files = {"train": path, "validation": validation_path, "test": test_path}
        rows = {split: read_rows(file, lambda row: _row(row, shown_tests)) for split, file in files.items() if file}
        super().__init__(rows, prompt_format=prompt_format, instruction=instruction, cpu_seconds=cpu_seconds)


def _row(row: Mapping[str, Any], shown_tests: int) -> CodeRow:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise InvalidRequest("test_list: is no list of asserts")
    names = [match[1] for test in tests if (match := CALL.search(test))]
    setup = row.get("test_setup_code") or ""
    text = text_field(row, "text" if "text" in row else "prompt").strip()
    shown = "\n".join(tests[:shown_tests])
    return CodeRow(
        task_id=str(row.get("task_id", text[:60])),
        prompt=f"{text}\nYour code should pass these tests:\n\n{shown}\n" if shown else f"{text}\n",
        payload={
            "kind": "function",
            "entry_point": names[0] if names else "",
            "tests": [str(setup), *tests] if str(setup).strip() else tests,
        },
        solution=str(row.get("code", "")),
    )
